"""Statistics of activations, logits and predictions, accumulated over batches."""

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from keras_distill.types import Tensor

# Tolerance of the sum of a row of probabilities; bfloat16 has three significant digits.
SUM_TOLERANCE = 1e-2
# Differences below this fraction of the largest value are rounding errors.
_ROUNDING = 1e-6
# Maximum number of positions (tokens, pixels) per batch whose logits are used, because vocabularies are large.
_MAX_POSITIONS = 1024


class ActivationStats:
    """Statistics of one activation.

    Attributes:
        num_examples: Number of examples.
        num_nonfinite: Number of values that are NaN or infinite.
        num_masked: Number of values that are -infinity, the logit of a masked class; part of `num_nonfinite`.
        max_abs: Largest absolute value.
        varying_channels: Booleans, shape `[channels]`: whether a channel (last axis) varies between examples; None
            before the first batch.
        is_probability: Whether every row consists of probabilities: no value below 0, and a sum of 1.
    """

    def __init__(self):
        self.num_examples = self.num_nonfinite = self.num_masked = self._num_values = 0
        self.max_abs = self._sum_of_squares = 0.0
        self.varying_channels = self._first_example = None
        self.is_probability = True

    @property
    def rms(self) -> float:
        """Root mean square of all values."""
        return (self._sum_of_squares / max(self._num_values, 1)) ** 0.5

    def add(self, activation: Tensor) -> None:
        """Add a batch.

        Args:
            activation: Shape `[batch, ...]`.
        """
        x = np.asarray(activation, "float32")
        x = x.reshape(len(x), -1) if x.ndim < 2 else x
        if not x.size:
            return
        finite = np.isfinite(x)
        self.num_nonfinite += int((~finite).sum())
        self.num_masked += int(np.isneginf(x).sum())
        x = np.where(finite, x, 0)
        self.num_examples += len(x)
        self.max_abs = max(self.max_abs, float(np.abs(x).max()))
        self._sum_of_squares += float(np.square(x, dtype="float64").sum())
        self._num_values += x.size
        # Batches of sequences may differ in length; the reference example then restarts.
        if self._first_example is None or self._first_example.shape != x[:1].shape:
            self._first_example = x[:1]
        varies = np.abs(x - self._first_example) > _ROUNDING * self.max_abs
        varies = varies.any(axis=tuple(range(x.ndim - 1)))
        self.varying_channels = varies if self.varying_channels is None else self.varying_channels | varies
        sums_to_one = np.abs(x.sum(-1) - 1) < SUM_TOLERANCE
        self.is_probability &= x.shape[-1] > 1 and bool((x >= 0).all() and sums_to_one.all())


class Predictions(NamedTuple):
    """Predictions of student and teacher for labeled examples.

    Attributes:
        labels: Class indices, shape `[examples]`.
        student: Class indices predicted by the student, shape `[examples]`.
        teacher: Class indices predicted by the teacher, shape `[examples]`.
        confidence: Probability of the teacher's predicted class, shape `[examples]`.
        target: Probability that the teacher gives to the label, shape `[examples]`.
    """

    labels: np.ndarray
    student: np.ndarray
    teacher: np.ndarray
    confidence: np.ndarray
    target: np.ndarray


class LogitStats:
    """Statistics of a pair of student and teacher logits that a term compares.

    Args:
        num_classes: Number of classes.

    Attributes:
        num_classes: Number of classes.
        num_unlabeled: Number of examples without a label.
    """

    def __init__(self, num_classes: int):
        self.num_classes, self.num_unlabeled = num_classes, 0
        self._predictions, self._soft_targets = [], {}

    @property
    def predictions(self) -> Predictions:
        """`Predictions` for the labeled examples of all batches."""
        if not self._predictions:
            return Predictions(*[np.zeros(0, int)] * 5)
        return Predictions(*(np.concatenate(rows) for rows in zip(*self._predictions)))

    @property
    def soft_targets(self) -> dict[str, tuple[float, float]]:
        """`{term: (probability outside of the predicted class, entropy deficit)}`, means over all positions.

        The entropy deficit is 0 for uniform probabilities and 1 for a one-hot distribution.
        """
        return {term: tuple(np.concatenate(rows).mean(0)) for term, rows in self._soft_targets.items()}

    def add(self, student: Tensor, teacher: Tensor, labels: Tensor | None, temperatures: Mapping[str, float]) -> None:
        """Add a batch.

        Args:
            student: Student logits, shape `[positions, classes]`.
            teacher: Teacher logits, shape `[positions, classes]`.
            labels: Class indices, shape `[positions]`, -1 for a missing label; or None.
            temperatures: `{term: softmax temperature}`.
        """
        if not len(teacher):
            return
        stride = -(-len(teacher) // _MAX_POSITIONS)
        student = np.asarray(student, "float64")[::stride]
        teacher = np.asarray(teacher, "float64")[::stride]
        for term, temperature in temperatures.items():
            soft = _softmax(teacher / temperature)
            # KL divergence from the uniform distribution: exact even if the entropy is almost maximal.
            deficit = (soft * np.log(np.maximum(soft * self.num_classes, 1e-300))).sum(-1) / np.log(self.num_classes)
            outside = np.sort(soft, -1)[:, :-1].sum(-1)
            self._soft_targets.setdefault(term, []).append(np.stack([outside, deficit], -1))
        if labels is None:
            self.num_unlabeled += len(teacher)
            return
        labels, soft = np.asarray(labels)[::stride], _softmax(teacher)
        target = np.take_along_axis(soft, np.maximum(labels, 0)[:, None], axis=-1)[:, 0]
        rows = labels, student.argmax(-1), teacher.argmax(-1), soft.max(-1), target
        self._predictions.append([row[labels >= 0] for row in rows])
        self.num_unlabeled += int((labels < 0).sum())


def _softmax(logits):
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))
