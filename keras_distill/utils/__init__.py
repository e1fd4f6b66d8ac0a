"""Argument checks, files, text formatting and drawing."""
