"""Semantic segmentation."""

import colorsys
from typing import Any

import keras
import numpy as np

from keras_distill.experiment.classification import MOST_CLASSES
from keras_distill.experiment.position_task import PositionTask, num_classes
from keras_distill.experiment.score import Score

# Color of positions that do not count.
_IGNORED = 128


class Segmentation(PositionTask):
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
    num_drawn = 4

    def metrics(self, model: keras.Model) -> list[Any]:
        classes = num_classes(model, type(self).__name__)
        return [keras.metrics.MeanIoU(classes, name="miou", ignore_class=self.ignore_class, sparse_y_pred=False)]

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return for each class the positions in the intersection and in the union, shape `[examples, classes, 2]`."""
        classes = np.shape(outputs)[-1]
        guesses = np.argmax(outputs, axis=-1).reshape(len(outputs), -1)
        labels = np.asarray(labels).reshape(guesses.shape)
        counted = self.counted(labels)
        records = np.zeros((len(labels), classes, 2), int)
        for number in range(classes):
            truth, guess = (labels == number) & counted, (guesses == number) & counted
            records[:, number, 0] = (truth & guess).sum(axis=1)
            records[:, number, 1] = (truth | guess).sum(axis=1)
        return records

    def score_of(self, records: Any) -> float:
        values = _iou(records)
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    def classes(self, model: keras.Model) -> list[str]:
        return [str(number) for number in range(num_classes(model, type(self).__name__))]

    def per_class(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return the intersection over union of each class; NaN for a class that does not occur."""
        return _iou(self.records(outputs, labels))

    def draw(self, inputs: Any, labels: Any) -> np.ndarray | None:
        """Return masks as images: class 0 in black, positions that do not count in gray."""
        labels = np.asarray(labels)
        labels = labels[..., 0] if labels.ndim == 4 and labels.shape[-1] == 1 else labels
        if labels.ndim != 3:
            return None
        counted = self.counted(labels)
        found = labels[counted].astype(int)
        colors = np.full((*labels.shape, 3), _IGNORED, "uint8")
        colors[counted] = _palette(found.max(initial=0) + 1)[found]
        return colors

    def confusion(self, outputs: Any, labels: Any) -> np.ndarray | None:
        classes = np.shape(outputs)[-1]
        if classes > MOST_CLASSES:
            return None
        labels = np.asarray(labels).reshape(-1)
        counted, guesses = self.counted(labels), np.argmax(outputs, axis=-1).reshape(-1)
        pairs = labels[counted].astype(int) * classes + guesses[counted]
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _palette(classes):
    """Return a color for each class, uint8 of shape `[classes, 3]`. Hues of neighbors differ by the golden angle."""
    numbers = np.arange(classes)
    colors = [colorsys.hls_to_rgb(0.618034 * number % 1, (0.55, 0.7, 0.42)[number % 3], 0.85) for number in numbers]
    colors[0] = (0.0, 0.0, 0.0)
    return np.uint8(np.round(255 * np.array(colors)))


def _iou(records):
    intersection, union = np.sum(records, axis=0, dtype=float).T
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)
