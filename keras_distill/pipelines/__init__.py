"""Distillation in TFX and Beam pipelines.

Import the submodules directly. None is imported here, because importing TFX takes ten seconds and Beam workers need
little of it.
"""
