"""Command line of keras_distill, `keras-distill`."""

# Modules of this folder import one another by relative names, and the rest of the package only when a command runs:
# `keras_distill_cli` loads them without `keras_distill`, so that `--help` does not wait for TensorFlow.
from .main import main

__all__ = ["main"]
