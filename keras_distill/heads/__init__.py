"""Heads: trained layers from the student's activations to the teacher's space."""

from keras_distill.heads.base import Head
from keras_distill.heads.convolution import Convolution
from keras_distill.heads.fusion import Fusion
from keras_distill.heads.masking import Masking
from keras_distill.heads.mlp import MLP
from keras_distill.heads.projection import Projection
from keras_distill.heads.resize import Resize
from keras_distill.heads.standardization import Standardization
from keras_distill.heads.translator import Translator

__all__ = [
    "MLP",
    "Convolution",
    "Fusion",
    "Head",
    "Masking",
    "Projection",
    "Resize",
    "Standardization",
    "Translator",
]
