"""Distillation in TFX pipelines.

Nothing is imported here: TFX takes ten seconds, and Beam's workers need little of it.
"""
