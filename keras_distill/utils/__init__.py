"""Arguments, files, text formatting and drawing."""
