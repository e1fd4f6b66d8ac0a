"""Layers of Keras models: taps, shapes, masks, logits and language-model heads."""

from keras_distill.models.inspection import Tappable, tappable
from keras_distill.models.lm_head import HiddenStates
from keras_distill.models.multi_crop import MultiCrop
from keras_distill.models.softmax import without_softmax
from keras_distill.models.taps import OUTPUT, Taps

__all__ = ["OUTPUT", "HiddenStates", "MultiCrop", "Tappable", "Taps", "tappable", "without_softmax"]
