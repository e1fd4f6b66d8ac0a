"""Regression."""

from typing import Any

import keras
import numpy as np

from keras_distill.experiment.score import Score
from keras_distill.experiment.task import Task
from keras_distill.losses.adapter import LossAdapter
from keras_distill.losses.base import DistillationLoss


class Regression(Task):
    """Regression of one or several numbers. The score is the root mean squared error (RMSE).

    Models output numbers, shape `[examples, targets]`; labels have the same shape, or `[examples]` for one target. NaN
    is a missing label, component by component.

    Args:
        loss: Supervised loss, as for `compile`. Defaults to "mse".
        unit: Unit of the targets, for tables and figures, such as "°C". Defaults to "", none.

    Example:

    >>> from keras_distill.experiment import Regression
    >>> round(Regression().evaluate(np.array([[1.0], [2.0]]), np.array([[2.0], [2.0]])), 3)
    0.707
    """

    def __init__(self, loss: Any = "mse", unit: str = ""):
        self._loss = loss
        self.score = Score("RMSE", higher_is_better=False, percent=False, unit=unit)

    def loss(self, model: keras.Model) -> Any:
        return self._loss

    def metrics(self, model: keras.Model) -> list[Any]:
        return [keras.metrics.RootMeanSquaredError("rmse")]

    def distillation_loss(self, temperature: float) -> DistillationLoss:
        """Return the mean squared error to the teacher's outputs; a temperature has no meaning for it."""
        return LossAdapter("mse")

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return squared errors and their number, shape `[examples, 2]`. Missing components are left out."""
        outputs = np.asarray(outputs, float)
        squares = np.square(outputs - np.asarray(labels, float).reshape(outputs.shape)).reshape(len(outputs), -1)
        present = ~np.isnan(squares)
        return np.stack([np.where(present, squares, 0).sum(axis=1), present.sum(axis=1)], axis=1)

    def score_of(self, records: Any) -> float:
        total, count = np.sum(records, axis=0)
        return float(np.sqrt(total / count)) if count else float("nan")

    def check(self, model: keras.Model, labels: Any) -> None:
        shape, expected = np.shape(labels)[1:], tuple(model.output_shape[1:])
        if shape != expected and (*shape, 1) != expected:
            raise ValueError(
                f"Labels must have the shape {expected} per example, like the output of '{model.name}'. Received: "
                f"labels of shape {shape} per example"
            )
