"""Activations and predictions, summed up over batches."""

from typing import NamedTuple

import keras
import numpy as np

# Of the largest value: what differs less was rounded differently.
_ROUNDING = 1e-6
# How far the sum of probabilities may be from 1; bfloat16 has three digits.
_SUM = 1e-2
# Tokens or pixels of a batch whose logits are looked at: a vocabulary makes them large.
_MOST = 1024


class ActivationStats:
    """An activation.

    Attributes:
        examples: How many were seen.
        broken: How many numbers were NaN or infinite.
        largest: The largest absolute value.
        varies: Which channels, the last axis, differ from example to example; None before the first.
        probable: Whether all rows are probabilities: none below 0, and of the sum 1.
    """

    def __init__(self):
        self.examples = self.broken = self._numbers = 0
        self.largest = self._squares = 0.0
        self.varies = self._first = None
        self.probable = True

    @property
    def size(self):
        """Root of the mean square."""
        return (self._squares / max(self._numbers, 1)) ** 0.5

    def add(self, activation):
        """Adds a batch, shape `[batch, ...]`."""
        x = np.asarray(activation, "float32")
        x = x.reshape(len(x), -1) if x.ndim < 2 else x
        if not x.size:
            return
        finite = np.isfinite(x)
        self.broken += int((~finite).sum())
        x = np.where(finite, x, 0)
        self.examples += len(x)
        self.largest = max(self.largest, float(np.abs(x).max()))
        self._squares += float(np.square(x, dtype="float64").sum())
        self._numbers += x.size
        # Batches of sequences may differ in length.
        self._first = x[:1] if self._first is None or self._first.shape != x[:1].shape else self._first
        differs = np.abs(x - self._first) > _ROUNDING * self.largest
        differs = differs.any(axis=tuple(range(x.ndim - 1)))
        self.varies = differs if self.varies is None else self.varies | differs
        self.probable &= x.shape[-1] > 1 and bool((x >= 0).all() and (np.abs(x.sum(-1) - 1) < _SUM).all())


class Predictions(NamedTuple):
    """What both models say of examples with a known class.

    Attributes:
        labels: Class numbers, shape `[examples]`.
        student: The student's most probable classes.
        teacher: The teacher's.
        confidence: The probability that the teacher gives its own.
    """

    labels: np.ndarray
    student: np.ndarray
    teacher: np.ndarray
    confidence: np.ndarray


class LogitStats:
    """Logits of student and teacher that a term compares.

    Attributes:
        classes: How many there are.
    """

    def __init__(self, classes):
        self.classes = classes
        self._said, self._soft = [], {}

    @property
    def said(self):
        """What was `Said` of all batches."""
        empty = np.zeros(0, int)
        return (
            Predictions(*(np.concatenate(rows) for rows in zip(*self._said)))
            if self._said
            else Predictions(*[empty] * 4)
        )

    @property
    def softness(self):
        """`{term: (probability outside of the teacher's class, lack of entropy)}`, means over all positions.

        The lack is 0 where all classes are equally probable and 1 where one is certain.
        """
        return {term: tuple(np.concatenate(rows).mean(0)) for term, rows in self._soft.items()}

    def add(self, student, teacher, labels, temperatures):
        """Adds a batch.

        Args:
            student, teacher: Logits, shape `[positions, classes]`.
            labels: Class numbers, shape `[positions]`, -1 where there is none; or None.
            temperatures: `{term: its temperature}`.
        """
        if not len(teacher):
            return
        step = -(-len(teacher) // _MOST)
        student, teacher = (np.asarray(x, "float64")[::step] for x in (student, teacher))
        for term, temperature in temperatures.items():
            soft = _softmax(teacher / temperature)
            # Divergence from evenly spread, which keeps its digits where the entropy is all but complete.
            lack = (soft * np.log(np.maximum(soft * self.classes, 1e-300))).sum(-1) / np.log(self.classes)
            self._soft.setdefault(term, []).append(np.stack([np.sort(soft, -1)[:, :-1].sum(-1), lack], -1))
        if labels is not None:
            labels = np.asarray(labels)[::step]
            known = labels >= 0
            rows = labels, student.argmax(-1), teacher.argmax(-1), _softmax(teacher).max(-1)
            self._said.append([row[known] for row in rows])


def _softmax(logits):
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))
