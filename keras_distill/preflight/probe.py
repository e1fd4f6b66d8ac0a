"""The parts of a distiller, run by themselves beside its own loop."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import unpack
from keras_distill.data.labels import label_mask
from keras_distill.data.sample_weights import entry_of_tap
from keras_distill.losses import BinaryKD
from keras_distill.losses.maths import one_hot_labels
from keras_distill.models.masking import joint_masks, mask_fits
from keras_distill.models.taps import OUTPUT, select_activations
from keras_distill.preflight.statistics import ActivationStats, LogitStats
from keras_distill.schedules import value_at
from keras_distill.training.balance import Balance
from keras_distill.training.base import local_mean, mean_over_examples, regularization_losses

SUPERVISED = "the supervised loss"
# Steps ahead at which schedules are read: the largest value is what they lead to, or come from.
_AHEAD = 0, 100, 1_000, 10_000, 100_000


class ForwardStats(NamedTuple):
    """What some batches look like without training.

    Attributes:
        student, teacher: `{tap: Activity}`.
        heads: `{term: Activity}` of what heads make of the student's activations.
        answers: `{(student tap, teacher tap): Answers}` of those that are compared as logits of classes.
        parts: `{part: mean over the batches}`, the parts being terms and the supervised loss, before any weight.
    """

    student: dict
    teacher: dict
    heads: dict
    answers: dict
    parts: dict


class Probe:
    """Runs a `Distiller`'s models and terms, and the gradient, without touching its logs.

    Args:
        distiller: A compiled `Distiller`.
        batches: List of `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
    """

    def __init__(self, distiller, batches):
        self.distiller = distiller
        self.batches = batches
        self.terms = {f"term '{term.name}'": term for term in distiller.terms}
        self._supervision = distiller._supervision.alone()
        self._look = tf.function(self._looked, reduce_retracing=True, autograph=False)
        self._derive = tf.function(self._derived, reduce_retracing=True, autograph=False)

    def look(self, count=None):
        """A `Look` at the first `count` batches, or at all."""
        student, teacher, heads, answers, parts = {}, {}, {}, {}, {}
        for data in self.batches[:count]:
            found = self._look(data)
            for kind, into in (("student", student), ("teacher", teacher), ("heads", heads)):
                for name, activation in found[kind].items():
                    into.setdefault(name, ActivationStats()).add(activation)
            for pair, (ours, theirs, labels) in found["answers"].items():
                seen = answers.setdefault(pair, LogitStats(ours.shape[-1]))
                seen.add(ours, theirs, labels, self._temperatures(pair))
            for part, value in found["parts"].items():
                parts.setdefault(part, []).append(float(value))
        return ForwardStats(
            student, teacher, heads, answers, {part: float(np.mean(values)) for part, values in parts.items()}
        )

    def weights(self, parts):
        """What each part is multiplied with, `{part: number}`: the most that its schedule has ahead.

        Args:
            parts: `{part: value}`, on which the weight of a `Balance` depends.
        """
        found = {SUPERVISED: self._ahead(self.distiller.supervised_weight)} if SUPERVISED in parts else {}
        for part, term in self.terms.items():
            if isinstance(term.weight, Balance):
                ratio, supervised = self._ahead(term.weight.ratio), abs(parts.get(SUPERVISED, 0.0))
                found[part] = ratio * supervised / parts[part] if parts[part] else 0.0
            else:
                found[part] = self._ahead(term.weight)
        return found

    def gradient(self, data, weights, scale=1.0):
        """The losses of a batch in training, and the gradient of their weighted sum and the student's regularisers.

        Args:
            data: The batch.
            weights: `{part: number}`.
            scale: What the gradient is multiplied with, as half precision needs it.

        Returns:
            `({part: float}, total, [gradient or None])`, the gradients of the distiller's trained variables.
        """
        weights = {part: tf.constant(weight, "float32") for part, weight in weights.items()}
        parts, total, gradients = self._derive(data, weights, tf.constant(scale, "float32"))
        return {part: float(value) for part, value in parts.items()}, float(total), gradients

    def _looked(self, data):
        batch, student, teacher = self._run(data, training=False)
        heads = {
            name: keras.tree.flatten(term.head(_float32(select_activations(student, term.student)), training=False))[0]
            for name, term in self.terms.items()
            if term.head is not None
        }
        answers = {
            pair: _answer(batch, student[pair[0]], teacher[pair[1]], pair[0], mask)
            for pair, mask in self._pairs().items()
        }
        return {
            "student": _tensors(student),
            "teacher": _tensors(teacher),
            "heads": heads,
            "answers": answers,
            "parts": self._parts(batch, student, teacher, training=False),
        }

    def _derived(self, data, weights, scale):
        with tf.GradientTape() as tape:
            batch, student, teacher = self._run(data, training=True)
            added = regularization_losses([self.distiller.student])
            parts = self._parts(batch, student, teacher, training=True)
            total = added + sum(weights[part] * value for part, value in parts.items())
            scaled = scale * total
        return parts, total, tape.gradient(scaled, self.distiller.trainable_variables)

    def _run(self, data, training):
        batch = unpack(data, self.distiller.optimizer.iterations)
        return batch, self.distiller._taps(batch.inputs, training=training), self.distiller.teacher.activations(batch)

    def _parts(self, batch, student, teacher, training):
        loss = self._supervision.loss(batch.labels, student[OUTPUT], batch.sample_weight)
        parts = {} if loss is None else {SUPERVISED: local_mean(loss, batch)}
        for name, term in self.terms.items():
            values = term.compare(
                select_activations(student, term.student), select_activations(teacher, term.teacher), batch, training
            )
            parts[name] = mean_over_examples(values)
        return parts

    def _pairs(self):
        """`{(student tap, teacher tap): mask}` of logits of classes."""
        return {
            (term.student, term.teacher): term.mask
            for term in self.terms.values()
            if term.loss.logits and not isinstance(term.loss, BinaryKD) and isinstance(term.student, str)
        }

    def _temperatures(self, pair):
        step = self.distiller.optimizer.iterations
        found = {
            name: term.loss.temperature_at(step)
            for name, term in self.terms.items()
            if (term.student, term.teacher) == pair
        }
        return {name: float(temperature) for name, temperature in found.items() if temperature is not None}

    def _ahead(self, schedule):
        now = int(self.distiller.optimizer.iterations)
        return max(float(value_at(schedule, tf.constant(now + ahead))) for ahead in _AHEAD)


def _answer(batch, student, teacher, tap, mask):
    """Logits at the positions that count, shape `[positions, classes]`, and their class numbers or None."""
    student_mask, teacher_mask = joint_masks(student, teacher, None if mask is None else batch.inputs[mask])
    labels = class_numbers(entry_of_tap(batch.labels, tap), student)
    counts = ops.ones(ops.shape(student)[:-1], "bool")
    if student_mask is not None:
        counts = ops.logical_and(counts, student_mask)
    return (
        tf.boolean_mask(_float32(student), counts),
        tf.boolean_mask(_float32(teacher), counts),
        None if labels is None else tf.boolean_mask(labels, counts),
    )


def class_numbers(labels, outputs):
    """Class numbers of shape `[batch, positions...]`, -1 where there is none; None for what are no labels of classes.

    Args:
        labels: As given to `fit`, a tensor or None.
        outputs: Logits, shape `[batch, positions..., classes]`; only their shape is looked at.
    """
    if labels is None or keras.tree.is_nested(labels) or outputs.shape[-1] == 1:
        return None
    if not (mask_fits(labels, outputs) and len(labels.shape) == len(outputs.shape) - 1) and not (
        len(labels.shape) == len(outputs.shape) and labels.shape[-1] in (1, outputs.shape[-1])
    ):
        return None
    numbers = ops.argmax(one_hot_labels(labels, outputs), axis=-1)
    return ops.where(label_mask(labels, outputs), ops.cast(numbers, "int32"), -1)


def _tensors(activations):
    """Those that are a tensor each, and no structure of several."""
    return {tap: _float32(found) for tap, found in activations.items() if not keras.tree.is_nested(found)}


def _float32(activations):
    return keras.tree.map_structure(lambda x: ops.cast(x, "float32"), activations)
