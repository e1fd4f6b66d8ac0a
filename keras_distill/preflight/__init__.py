"""Pre-flight diagnostics for a distillation setup."""

from keras_distill.preflight.checker import check
from keras_distill.preflight.finding import Finding

__all__ = ["Finding", "check"]
