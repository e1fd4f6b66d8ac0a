"""Forward passes and gradients of a distiller, outside of its training loop."""

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch, unpack
from keras_distill.data.labels import are_class_indices, label_mask
from keras_distill.data.sample_weights import entry_of_tap
from keras_distill.losses import BinaryKD
from keras_distill.losses.maths import one_hot_labels
from keras_distill.models.masking import joint_masks, mask_fits
from keras_distill.models.taps import select_activations
from keras_distill.preflight.statistics import ActivationStats, LogitStats
from keras_distill.training.base import BaseDistiller
from keras_distill.training.reductions import regularization_losses
from keras_distill.types import Structure, Tensor

SUPERVISED = "the supervised loss"
# Steps ahead at which schedules are evaluated. The largest value stands for the whole schedule, warm-up or decay.
STEPS_AHEAD = 0, 100, 1_000, 10_000, 100_000


class ForwardStats(NamedTuple):
    """Statistics of forward passes over several batches, with `training=False`.

    Attributes:
        student: `{tap: ActivationStats}` of the student.
        teacher: `{tap: ActivationStats}` of the teacher.
        heads: `{term: ActivationStats}` of the outputs of heads.
        logits: `{(student tap, teacher tap): LogitStats}` of the pairs that terms compare as class logits.
        losses: `{loss: mean over the batches}` of the supervised loss and all terms, before weighting.
    """

    student: dict[str, ActivationStats]
    teacher: dict[str, ActivationStats]
    heads: dict[str, ActivationStats]
    logits: dict[tuple[str, str], LogitStats]
    losses: dict[str, float]


class Probe:
    """Runs the models, terms and gradients of a distiller without updating its metrics.

    Args:
        distiller: A compiled distiller.
        batches: List of `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

    Attributes:
        terms: `{name in findings, such as "term 'hint'": Term}`.
    """

    def __init__(self, distiller: BaseDistiller, batches: list[tuple]):
        self.distiller = distiller
        self.batches = batches
        self.terms = {f"term '{term.name}'": term for term in distiller.terms}
        self._forward = tf.function(self._forward_batch, reduce_retracing=True, autograph=False)
        self._backward = tf.function(self._backward_batch, reduce_retracing=True, autograph=False)

    def forward_stats(self, num_batches: int | None = None) -> ForwardStats:
        """Run the models and return `ForwardStats`.

        Args:
            num_batches: Number of batches to use. Defaults to None, all batches.
        """
        stats = ForwardStats({}, {}, {}, {}, {})
        losses = {}
        for data in self.batches[:num_batches]:
            results = self._forward(data)
            for kind in ("student", "teacher", "heads"):
                for name, activation in results[kind].items():
                    getattr(stats, kind).setdefault(name, ActivationStats()).add(activation)
            for pair, (student, teacher, labels) in results["logits"].items():
                logit_stats = stats.logits.setdefault(pair, LogitStats(student.shape[-1]))
                logit_stats.add(student, teacher, labels, self._temperatures(pair))
            for name, value in results["losses"].items():
                losses.setdefault(name, []).append(float(value))
        return stats._replace(losses={name: float(np.mean(values)) for name, values in losses.items()})

    def first_activations(self) -> tuple[Batch, dict[str, Structure], dict[str, Structure]]:
        """Return the first batch, and the activations of student and teacher for it, with their Keras masks."""
        return self._run_models(self.batches[0], training=False)

    def loss_weights(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return `{loss: weight}` of the supervised loss and all terms, the largest value of a schedule.

        Args:
            losses: `{loss: value}`, on which the weight of a `Balance` depends.
        """
        step = int(self.distiller.optimizer.iterations)
        steps = [tf.constant(step + ahead) for ahead in STEPS_AHEAD]
        parts = self.distiller.parts
        return {
            part.title: part.weight.peak(steps, losses[part.title], losses.get(parts[part.supervised].title, 0.0))
            for part in parts.values()
            if part.title in losses
        }

    def gradient(
        self, data: Structure, weights: Mapping[str, float], scale: float = 1.0
    ) -> tuple[dict[str, float], float, list[Tensor | None]]:
        """Return the losses of a batch in training mode and the gradient of their weighted sum.

        Args:
            data: A batch.
            weights: `{loss: weight}`.
            scale: Factor of the gradient, for the loss scaling of half precision. Defaults to 1.0.

        Returns:
            `({loss: value}, total, gradients)`. The total includes the student's regularization losses. The gradients
            belong to the distiller's trainable variables; None for a variable without gradient.
        """
        weights = {name: tf.constant(weight, "float32") for name, weight in weights.items()}
        losses, total, gradients = self._backward(data, weights, tf.constant(scale, "float32"))
        return {name: float(value) for name, value in losses.items()}, float(total), gradients

    def _forward_batch(self, data):
        batch, student, teacher = self._run_models(data, training=False)
        heads = {
            name: keras.tree.flatten(term.head(_float32(select_activations(student, term.student)), training=False))[0]
            for name, term in self.terms.items()
            if term.head is not None
        }
        logits = {
            pair: _valid_logits(batch, *self.distiller.compared_activations(term, student, teacher), term)
            for pair, term in self._logit_pairs().items()
        }
        return {
            "student": _single_tensors(student),
            "teacher": _single_tensors(teacher),
            "heads": heads,
            "logits": logits,
            "losses": self._part_losses(batch, student, teacher, training=False),
        }

    def _backward_batch(self, data, weights, scale):
        with tf.GradientTape() as tape:
            batch, student, teacher = self._run_models(data, training=True)
            regularization = regularization_losses(self.distiller.outputs.values())
            losses = self._part_losses(batch, student, teacher, training=True)
            total = regularization + sum(weights[name] * value for name, value in losses.items())
            scaled = scale * total
        return losses, total, tape.gradient(scaled, self.distiller.trainable_variables)

    def _run_models(self, data, training):
        batch = self.distiller.prepare_batch(unpack(data, self.distiller.optimizer.iterations))
        teacher = self.distiller.teacher_activations(batch)
        return batch, self.distiller.student_activations(batch, training), teacher

    def _part_losses(self, batch, student, teacher, training):
        """Return `{title: loss}`, without supervised losses where there are no labels or no loss."""
        losses = self.distiller.losses_of(batch, student, teacher, training)
        parts = self.distiller.parts
        supervised = {part.supervised for part in parts.values()}
        absent = supervised if batch.labels is None or not self.distiller.supervised else ()
        return {parts[name].title: loss for name, loss in losses.items() if name not in absent}

    def _logit_pairs(self):
        """Return `{(student tap, teacher tap): term}` of the terms that compare class logits."""
        return {(term.student, term.teacher): term for term in self.terms.values() if _compares_classes(term)}

    def _temperatures(self, pair):
        step = self.distiller.optimizer.iterations
        temperatures = {
            name: term.loss.temperature_at(step)
            for name, term in self.terms.items()
            if (term.student, term.teacher) == pair and _compares_classes(term)
        }
        return {name: float(temperature) for name, temperature in temperatures.items() if temperature is not None}


def _compares_classes(term):
    # A `teacher_head` gives the last axis another meaning, such as bins of box edges.
    plain = isinstance(term.student, str) and term.teacher_head is None
    return plain and term.loss.logits and not term.loss.aligns and not isinstance(term.loss, BinaryKD)


def class_indices(labels: Tensor | None, outputs: Tensor) -> Tensor | None:
    """Return labels as class indices, -1 for a missing label; None if they are not class labels.

    Args:
        labels: Labels as passed to `fit`: a tensor of class indices or one-hot rows, or None.
        outputs: Logits, shape `[batch, positions..., classes]`. Only their shape is used.

    Returns:
        int32, shape `[batch, positions...]`, or None.
    """
    if labels is None or keras.tree.is_nested(labels) or outputs.shape[-1] == 1:
        return None
    rank, output_rank = len(labels.shape), len(outputs.shape)
    sparse = mask_fits(labels, outputs) and rank == output_rank - 1
    one_hot = rank == output_rank and labels.shape[-1] in (1, outputs.shape[-1])
    if not sparse and not one_hot:
        return None
    rows = one_hot_labels(labels, outputs)
    # A label out of range has a row of zeros, whose argmax would be class 0.
    present = label_mask(labels, are_class_indices(labels, outputs))
    present = ops.all(present, axis=-1) if one_hot else present
    present = ops.logical_and(present, ops.any(rows > 0, axis=-1))
    return ops.where(present, ops.cast(ops.argmax(rows, axis=-1), "int32"), -1)


def _valid_logits(batch, student, teacher, term):
    """Return student and teacher logits at unpadded positions, shape `[positions, classes]`, and class indices."""
    student_mask, _ = joint_masks(student, teacher, None if term.mask is None else batch.inputs[term.mask])
    labels = class_indices(entry_of_tap(batch.labels, term.student), student)
    valid = ops.ones(ops.shape(student)[:-1], "bool")
    if student_mask is not None:
        valid = ops.logical_and(valid, student_mask)
    return (
        tf.boolean_mask(_float32(student)[..., : term.words], valid),
        tf.boolean_mask(_float32(teacher)[..., : term.words], valid),
        None if labels is None else tf.boolean_mask(labels, valid),
    )


def _single_tensors(activations):
    """Drop the taps that hold a structure of several tensors."""
    return {tap: _float32(value) for tap, value in activations.items() if not keras.tree.is_nested(value)}


def _float32(activations):
    return keras.tree.map_structure(lambda x: ops.cast(x, "float32"), activations)
