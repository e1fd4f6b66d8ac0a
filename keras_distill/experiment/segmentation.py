"""Semantic segmentation."""

from typing import Any

import keras
import numpy as np

from keras_distill.data.labels import UNLABELLED
from keras_distill.experiment.classification import MOST_CLASSES, check_integers
from keras_distill.experiment.score import Score
from keras_distill.experiment.task import Task
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.kl_divergence import KLDivergence
from keras_distill.models.softmax import ends_in_softmax, logits_model


class Segmentation(Task):
    """Semantic segmentation: one class per position. The score is the mean intersection over union (mIoU).

    Models end in logits or in a softmax, shape `[examples, positions..., classes]`, such as
    `[examples, height, width, classes]`. Labels are class indices, shape `[examples, positions...]`. The mean is taken
    over the classes that occur in the labels or predictions of the evaluation split.

    Args:
        ignore_class: Class index of positions that count neither in the loss nor in the score. 255 is typical.
            Defaults to None: all positions count, except those with a missing label, -1.

    Example:

    >>> from keras_distill.experiment import Segmentation
    >>> masks = np.array([[[0, 1], [1, 255]]])
    >>> Segmentation(ignore_class=255).evaluate(np.eye(2)[[[[0, 1], [1, 0]]]], masks)
    1.0
    """

    score = Score("mIoU")

    def __init__(self, ignore_class: int | None = None):
        self.ignore_class = ignore_class

    def loss(self, model: keras.Model) -> keras.losses.Loss:
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=not ends_in_softmax(model), ignore_class=self.ignore_class
        )

    def predictor(self, model: keras.Model) -> keras.Model:
        return logits_model(model)

    def metrics(self, model: keras.Model) -> list[Any]:
        return [
            keras.metrics.MeanIoU(_num_classes(model), name="miou", ignore_class=self.ignore_class, sparse_y_pred=False)
        ]

    def distillation_loss(self, temperature: float) -> DistillationLoss:
        return KLDivergence(temperature)

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return for each class the positions in the intersection and in the union, shape `[examples, classes, 2]`."""
        classes = np.shape(outputs)[-1]
        guesses = np.argmax(outputs, axis=-1).reshape(len(outputs), -1)
        labels = np.asarray(labels).reshape(guesses.shape)
        counted = self._counted(labels)
        records = np.zeros((len(labels), classes, 2), int)
        for number in range(classes):
            truth, guess = (labels == number) & counted, (guesses == number) & counted
            records[:, number, 0] = (truth & guess).sum(axis=1)
            records[:, number, 1] = (truth | guess).sum(axis=1)
        return records

    def score_of(self, records: Any) -> float:
        values = _iou(records)
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    def as_labels(self, outputs: Any) -> np.ndarray:
        return np.argmax(outputs, axis=-1)

    def labeled(self, labels: Any) -> np.ndarray:
        return self._counted(np.asarray(labels)).reshape(len(labels), -1).any(axis=1)

    def missing_labels(self, labels: Any) -> np.ndarray:
        return np.full(np.shape(labels), UNLABELLED, "int32")

    def check(self, model: keras.Model, labels: Any) -> None:
        classes, labels = _num_classes(model), np.asarray(labels)
        shape, expected = labels.shape[1:], tuple(model.output_shape[1:-1])
        shape = shape[:-1] if len(shape) == len(expected) + 1 and shape[-1] == 1 else shape
        if len(shape) != len(expected) or any(b not in (None, a) for a, b in zip(shape, expected)):
            raise ValueError(
                f"Labels must have the shape {expected} per example, the positions of '{model.name}'. Received: "
                f"labels of shape {labels.shape[1:]} per example"
            )
        check_integers(labels)
        found = np.unique(labels[self._counted(labels)])
        if len(found) and not (found[0] >= 0 and found[-1] < classes):
            ignored = (
                "" if self.ignore_class is not None else " Pass Segmentation(ignore_class=...) for ignored pixels."
            )
            raise ValueError(
                f"'{model.name}' has the classes 0 to {classes - 1}. Received: labels from {found[0]} to "
                f"{found[-1]}.{ignored}"
            )

    def classes(self, model: keras.Model) -> list[str]:
        return [str(number) for number in range(_num_classes(model))]

    def per_class(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return the intersection over union of each class; NaN for a class that does not occur."""
        return _iou(self.records(outputs, labels))

    def confusion(self, outputs: Any, labels: Any) -> np.ndarray | None:
        classes = np.shape(outputs)[-1]
        if classes > MOST_CLASSES:
            return None
        labels = np.asarray(labels).reshape(-1)
        counted, guesses = self._counted(labels), np.argmax(outputs, axis=-1).reshape(-1)
        pairs = labels[counted].astype(int) * classes + guesses[counted]
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def _counted(self, labels):
        return labels != UNLABELLED if self.ignore_class is None else (labels != self.ignore_class) & (labels != -1)


def _iou(records):
    intersection, union = np.sum(records, axis=0, dtype=float).T
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)


def _num_classes(model):
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) < 3 or not shape[-1] or shape[-1] < 2:
        raise ValueError(
            f"'{model.name}' must have one output of shape (None, positions..., classes), classes >= 2, for "
            f"Segmentation(). Its output shape is {shape}."
        )
    return shape[-1]
