"""Tasks with a class for each position."""

from typing import Any

import keras
import numpy as np

from keras_distill.data.labels import UNLABELLED
from keras_distill.experiment.classification import check_integers
from keras_distill.experiment.task import Task
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.kl_divergence import KLDivergence
from keras_distill.models.softmax import ends_in_softmax, logits_model


class PositionTask(Task):
    """Task with one class per position, such as a pixel or a token. Abstract.

    Models end in logits or in a softmax, shape `[examples, positions..., classes]`. Labels are class indices, shape
    `[examples, positions...]`; -1 is a missing label.

    Args:
        ignore_class: Class index of positions that count neither in the loss nor in the score. Defaults to None: all
            positions count, except those with a missing label, -1.
    """

    def __init__(self, ignore_class: int | None = None):
        self.ignore_class = ignore_class

    def loss(self, model: keras.Model) -> keras.losses.Loss:
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=not ends_in_softmax(model), ignore_class=self.ignore_class
        )

    def predictor(self, model: keras.Model) -> keras.Model:
        return logits_model(model)

    def distillation_loss(self, temperature: float) -> DistillationLoss:
        return KLDivergence(temperature)

    def as_labels(self, outputs: Any) -> np.ndarray:
        return np.argmax(outputs, axis=-1)

    def labeled(self, labels: Any) -> np.ndarray:
        return self.counted(np.asarray(labels)).reshape(len(labels), -1).any(axis=1)

    def missing_labels(self, labels: Any) -> np.ndarray:
        return np.full(np.shape(labels), UNLABELLED, "int32")

    def check(self, model: keras.Model, labels: Any) -> None:
        classes, labels = num_classes(model, type(self).__name__), np.asarray(labels)
        shape, expected = labels.shape[1:], tuple(model.output_shape[1:-1])
        shape = shape[:-1] if len(shape) == len(expected) + 1 and shape[-1] == 1 else shape
        if len(shape) != len(expected) or any(b not in (None, a) for a, b in zip(shape, expected)):
            raise ValueError(
                f"Labels must have the shape {expected} per example, the positions of '{model.name}'. Received: "
                f"labels of shape {labels.shape[1:]} per example"
            )
        check_integers(labels)
        found = np.unique(labels[self.counted(labels)])
        if len(found) and not (found[0] >= 0 and found[-1] < classes):
            advice = f" Pass {type(self).__name__}(ignore_class=...) for positions that do not count."
            ignored = "" if self.ignore_class is not None else advice
            raise ValueError(
                f"'{model.name}' has the classes 0 to {classes - 1}. Received: labels from {found[0]} to "
                f"{found[-1]}.{ignored}"
            )

    def counted(self, labels: np.ndarray) -> np.ndarray:
        """Return which positions count, booleans of the shape of the labels."""
        return labels != UNLABELLED if self.ignore_class is None else (labels != self.ignore_class) & (labels != -1)


def num_classes(model: keras.Model, task: str) -> int:
    """Return the number of classes of a model's output.

    Args:
        model: A model with one output.
        task: Name of the task, for the error.

    Raises:
        ValueError: If its output has no positions or a single class.
    """
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) < 3 or not shape[-1] or shape[-1] < 2:
        raise ValueError(
            f"'{model.name}' must have one output of shape (None, positions..., classes), classes >= 2, for "
            f"{task}(). Its output shape is {shape}."
        )
    return shape[-1]
