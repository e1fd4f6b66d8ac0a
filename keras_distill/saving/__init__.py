"""Loading a saved distiller, and checkpoint files."""

from keras_distill.saving.load import load_distiller

__all__ = ["load_distiller"]
