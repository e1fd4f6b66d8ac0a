"""Hyperparameter search with KerasTuner: one teacher serves all trials, and a trial keeps only its student."""

from keras_distill.tuning import spaces
from keras_distill.tuning.budget import Budget
from keras_distill.tuning.grid import GridSearch
from keras_distill.tuning.hypermodel import DistillationHyperModel
