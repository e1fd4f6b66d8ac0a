"""Single-label and multi-label classification."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_distill.data.labels import UNLABELLED, check_indices
from keras_distill.experiment.score import Score
from keras_distill.experiment.task import Task
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.binary_kd import BinaryKD
from keras_distill.losses.kl_divergence import KLDivergence
from keras_distill.models.softmax import ends_in_softmax, logits_model

# With a thousand classes the confusion matrix would take megabytes, and no report shows it.
MOST_CLASSES = 100
# Number of examples whose soft targets a report shows.
MOST_EXAMPLES = 6


class Classification(Task):
    """Classification with one class per example. The score is the accuracy.

    Models end in logits or in a softmax, shape `[examples, classes]`. Labels are class indices, shape `[examples]` or
    `[examples, 1]`, or one-hot, shape `[examples, classes]`. A missing label is -1, or NaN.

    Args:
        one_hot: Whether the labels are one-hot. Defaults to False.

    Example:

    >>> from keras_distill.experiment import Classification
    >>> Classification().evaluate(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
    0.5
    """

    score = Score("accuracy")
    monitor = "val_accuracy"
    mode = "max"

    def __init__(self, one_hot: bool = False):
        self.one_hot = one_hot

    def loss(self, model: keras.Model) -> keras.losses.Loss:
        losses = keras.losses
        loss = losses.CategoricalCrossentropy if self.one_hot else losses.SparseCategoricalCrossentropy
        # In a graph, Keras reads the logits from the softmax, so that both forms compute the same loss.
        return loss(from_logits=not ends_in_softmax(model))

    def predictor(self, model: keras.Model) -> keras.Model:
        return logits_model(model)

    def metrics(self, model: keras.Model) -> list[Any]:
        return ["accuracy"]

    def distillation_loss(self, temperature: float) -> DistillationLoss:
        return KLDivergence(temperature)

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        return (np.argmax(outputs, axis=-1) == self._indices(labels)).astype(float)

    def resolution(self, examples: int) -> float:
        return 1 / examples

    def as_labels(self, outputs: Any) -> np.ndarray:
        indices = np.argmax(outputs, axis=-1)
        return np.eye(np.shape(outputs)[-1], dtype="float32")[indices] if self.one_hot else indices

    def labeled(self, labels: Any) -> np.ndarray:
        rows = np.asarray(labels).reshape(len(labels), -1)
        present = ~np.isnan(rows).any(axis=1) if np.issubdtype(rows.dtype, np.floating) else np.ones(len(rows), bool)
        return present if self.one_hot else present & (rows[:, 0] != UNLABELLED)

    def missing_labels(self, labels: Any) -> np.ndarray:
        if self.one_hot:
            return np.full(np.shape(labels), np.nan, "float32")
        return np.full(np.shape(labels), UNLABELLED, "int32")

    def soft(self) -> "Classification":
        return Classification(one_hot=True)

    def soft_labels(self, labels: Any, model: keras.Model) -> np.ndarray:
        if self.one_hot:
            return np.asarray(labels, "float32")
        one_hot = np.eye(num_classes(model, "Classification", at_least=2), dtype="float32")[self._indices(labels)]
        one_hot[~self.labeled(labels)] = np.nan
        return one_hot

    def check(self, model: keras.Model, labels: Any) -> None:
        classes = num_classes(model, "Classification", at_least=2)
        shape = np.shape(labels)[1:]
        allowed = [(classes,)] if self.one_hot else [(), (1,)]
        if shape not in allowed:
            kind = f"one-hot, shape ({classes},)" if self.one_hot else "class indices, shape () or (1,)"
            raise ValueError(
                f"Labels must be {kind}, because '{model.name}' has {classes} classes. Received: labels of shape "
                f"{shape} per example"
            )
        if not self.one_hot:
            check_integers(labels)
            check_indices(labels, classes, model.name)

    def classes(self, model: keras.Model) -> list[str]:
        return [str(number) for number in range(num_classes(model, "Classification", at_least=2))]

    def per_class(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return the recall of each class; NaN for a class without examples."""
        classes, indices = np.shape(outputs)[-1], self._indices(labels)
        totals = np.bincount(indices, minlength=classes)
        correct = np.bincount(indices[np.argmax(outputs, axis=-1) == indices], minlength=classes)
        return np.divide(correct, totals, out=np.full(classes, np.nan), where=totals > 0)

    def confusion(self, outputs: Any, labels: Any) -> np.ndarray | None:
        classes = np.shape(outputs)[-1]
        if classes > MOST_CLASSES:
            return None
        counts = np.zeros((classes, classes), int)
        np.add.at(counts, (self._indices(labels), np.argmax(outputs, axis=-1)), 1)
        return counts

    def least_confident(self, teacher_outputs: Any, labels: Any) -> Sequence[int]:
        """Return up to six examples, each of another class, that the teacher predicts correctly but least clearly."""
        outputs, indices = np.asarray(teacher_outputs, float), self._indices(labels)
        largest = np.sort(outputs, axis=-1)
        order = np.argsort(largest[:, -1] - largest[:, -2], kind="stable")
        correct = order[outputs[order].argmax(-1) == indices[order]]
        first: dict[int, int] = {}
        for index in correct:
            first.setdefault(int(indices[index]), int(index))
        return list(first.values())[:MOST_EXAMPLES]

    def _indices(self, labels):
        labels = np.asarray(labels)
        return labels.argmax(-1) if self.one_hot else labels.reshape(len(labels)).astype(int)


class MultiLabelClassification(Task):
    """Classification with any number of labels per example. The score is the macro F1.

    Models end in logits or in a sigmoid, shape `[examples, labels]`. Labels are 0 or 1 in the same shape, NaN for a
    missing component. Binary classification with one output unit is the case of one label. Evaluation reads logits: a
    logit > 0 predicts the label.

    Example:

    >>> from keras_distill.experiment import MultiLabelClassification
    >>> outputs, labels = np.array([[3.0, -1.0], [-2.0, 4.0]]), np.array([[1, 0], [1, 1]])
    >>> round(MultiLabelClassification().evaluate(outputs, labels), 3)
    0.833
    """

    score = Score("macro F1")

    def loss(self, model: keras.Model) -> keras.losses.Loss:
        return keras.losses.BinaryCrossentropy(from_logits=not ends_in_softmax(model))

    def predictor(self, model: keras.Model) -> keras.Model:
        return logits_model(model)

    def metrics(self, model: keras.Model) -> list[Any]:
        threshold = 0.5 if ends_in_softmax(model) else 0.0
        return [keras.metrics.BinaryAccuracy("binary_accuracy", threshold=threshold)]

    def distillation_loss(self, temperature: float) -> DistillationLoss:
        return BinaryKD(temperature)

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return true positives, false positives and false negatives, shape `[examples, labels, 3]`."""
        guesses = np.asarray(outputs) > 0
        labels = np.asarray(labels, float).reshape(guesses.shape)
        present, truth = ~np.isnan(labels), labels > 0.5
        return np.stack([guesses & truth & present, guesses & ~truth & present, ~guesses & truth & present], axis=-1)

    def score_of(self, records: Any) -> float:
        return float(np.nanmean(_f1(records))) if np.any(records) else 0.0

    def as_labels(self, outputs: Any) -> np.ndarray:
        return (np.asarray(outputs) > 0).astype("float32")

    def check(self, model: keras.Model, labels: Any) -> None:
        count = num_classes(model, "MultiLabelClassification", at_least=1)
        shape = np.shape(labels)[1:]
        if shape != (count,) and not (count == 1 and shape == ()):
            raise ValueError(
                f"Labels must have the shape ({count},) per example, because '{model.name}' has {count} outputs. "
                f"Received: labels of shape {shape} per example"
            )
        invalid = [value for value in np.unique(np.asarray(labels, float)) if not (value in (0, 1) or np.isnan(value))]
        if invalid:
            raise ValueError(f"Labels must be 0, 1 or NaN for a missing component. Received: {invalid[0]:g}")

    def classes(self, model: keras.Model) -> list[str]:
        return [str(number) for number in range(num_classes(model, "MultiLabelClassification", at_least=1))]

    def per_class(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return the F1 of each label; NaN for a label that is neither true nor predicted in any example."""
        return _f1(self.records(outputs, labels))


def num_classes(model: keras.Model, task: str, at_least: int) -> int:
    """Return the size of a model's last axis.

    Args:
        model: A built `keras.Model`.
        task: Name of the task, for the error.
        at_least: Smallest number of classes.

    Raises:
        ValueError: If the model does not have a single output of shape `[batch, classes]` with enough classes.
    """
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not shape[-1] or shape[-1] < at_least:
        advice = "one output unit: MultiLabelClassification()" if shape == (None, 1) else "other outputs: another Task"
        raise ValueError(
            f"'{model.name}' must have one output of shape (None, classes), classes >= {at_least}, for {task}(). Its "
            f"output shape is {shape}. For {advice}."
        )
    return shape[-1]


def check_integers(labels: Any) -> None:
    """Raise ValueError for class indices in a floating-point dtype, with code that casts them.

    Args:
        labels: Class indices, in any shape.
    """
    labels = np.asarray(labels)
    if np.issubdtype(labels.dtype, np.floating):
        # A cast of NaN is undefined.
        indices = f"np.where(np.isnan(y), {UNLABELLED}, y)" if np.isnan(labels).any() else "y"
        raise ValueError(
            f"Class indices must be integers. Received: labels of dtype {labels.dtype}. Cast them: "
            f'{indices}.astype("int32").'
        )


def _f1(records):
    true_positives, false_positives, false_negatives = np.sum(records, axis=0, dtype=float).T
    total = 2 * true_positives + false_positives + false_negatives
    return np.divide(2 * true_positives, total, out=np.full(len(total), np.nan), where=total > 0)
