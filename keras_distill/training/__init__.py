"""Distillers, their terms and their supervised loss."""

from keras_distill.training.balance import Balance
from keras_distill.training.base import BaseDistiller
from keras_distill.training.confidence import Confidence
from keras_distill.training.distiller import Distiller
from keras_distill.training.loss_weight import LossWeight
from keras_distill.training.mutual import MutualDistiller
from keras_distill.training.term import Term

__all__ = ["Balance", "BaseDistiller", "Confidence", "Distiller", "LossWeight", "MutualDistiller", "Term"]
