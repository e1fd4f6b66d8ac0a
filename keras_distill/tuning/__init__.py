"""Hyperparameter search with KerasTuner: all trials share one teacher, and a trial stores only its student."""

from keras_distill.tuning import spaces
from keras_distill.tuning.budget import Budget
from keras_distill.tuning.grid import GridSearch
from keras_distill.tuning.hypermodel import DistillationHyperModel
from keras_distill.tuning.search import Search, read_search

__all__ = ["Budget", "DistillationHyperModel", "GridSearch", "Search", "read_search", "spaces"]
