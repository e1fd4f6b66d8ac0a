"""Softened class probabilities of two models, and the Kullback-Leibler divergence between them."""

import math

import tensorflow as tf
from keras import ops

from keras_distill.types import Tensor


def kl_from_logits(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the Kullback-Leibler divergence of two softened distributions, `KL(teacher || student)`.

    Accurate for nearly equal distributions: at a temperature of 1000 the divergence is about 1e-6, the remainder of
    terms a million times larger, and callers multiply it by the temperature squared.

    Args:
        student: Logits, float32, shape `[..., classes]`.
        teacher: Logits, float32, shape `[..., classes]`.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Nats, shape `[...]`.
    """
    if not isinstance(temperature, float):
        # A temperature that is trained has a gradient, too.
        student, teacher, temperature = _soften(student, temperature), _soften(teacher, temperature), 1.0

    @tf.custom_gradient
    def kl(student, teacher):
        q, p, ratio = _compare(_soften(student, temperature), _soften(teacher, temperature))
        # A class that only the student masks has a term of the teacher's probability times a constant.
        dropped = ratio > _LIMIT
        # The teacher's probability of a class below the lower limit is 0.
        ratio = ops.maximum(ops.where(dropped, _MAX_NATS, ratio), -_LIMIT)

        def backward(upstream: Tensor) -> tuple[Tensor, Tensor]:
            of_student, of_teacher = _kl_gradients(q, p, ratio, dropped)
            upstream = ops.expand_dims(upstream / temperature, -1)
            return upstream * of_student, upstream * of_teacher

        return kl_from_probabilities(p, q, ratio), backward

    return kl(student, teacher)


def _kl_gradients(q, p, ratio, dropped):
    """Return the gradients of `KL(teacher || student)` with respect to the softened logits of both.

    The gradient of the series in `kl_from_probabilities` would take about 60 passes over the logits, and these formulas
    take a dozen.
    """
    change = ops.where(dropped, 0.0, probability_difference(q, p, ratio))
    # The sum is 0 but for rounding, which is common to all ratios, and for the classes that are dropped.
    of_student = q * ops.sum(change, axis=-1, keepdims=True) - change
    slope = ops.where(dropped, ratio - 1.0, ratio)
    of_teacher = p * (slope - ops.sum(p * slope, axis=-1, keepdims=True))
    return of_student, of_teacher


# Logarithms of ratios above the limit, or below its negative, belong to classes that only one model masks. They are
# replaced by a constant.
_LIMIT = 1e10
_MAX_NATS = 100.0


def softmax_pair(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Compute two softened distributions and the logarithm of their ratio.

    Args:
        student: Logits, float32, shape `[..., classes]`.
        teacher: Logits, float32, shape `[..., classes]`.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        `(q, p, log p - log q)`, with `q` of the student and `p` of the teacher, each of shape `[..., classes]`.
    """
    q, p, ratio = _compare(_soften(student, temperature), _soften(teacher, temperature))
    # A class that only one model masks: see `class_masks`.
    return q, p, ops.where(ops.abs(ratio) < _LIMIT, ratio, ops.clip(ratio, -_MAX_NATS, _MAX_NATS))


def _soften(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return logits with maximum 0, divided by the temperature."""
    # Softmax ignores a shift. Without it, large logits over a low temperature would lose their differences.
    logits = logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    return logits if isinstance(temperature, float) and temperature == 1.0 else logits / temperature


def _compare(student, teacher):
    """Return the results of `softmax_pair` for softened logits, without a limit of the ratio."""
    student_mass, teacher_mass = (ops.log(ops.sum(ops.exp(x), axis=-1, keepdims=True)) for x in (student, teacher))
    # log p - log q from the logits themselves: the remaining rounding error is the same for every class.
    ratio = (teacher - student) - (teacher_mass - student_mass)
    # Not the quotients of the exponentials and their sum, of which `ratio` is not exactly the logarithm.
    return ops.exp(student - student_mass), ops.exp(teacher - teacher_mass), ratio


def probability_difference(q: Tensor, p: Tensor, ratio: Tensor) -> Tensor:
    """Compute `p - q` from the results of `softmax_pair`, accurate for nearly equal probabilities."""
    return ops.where(ratio < 0.5, q * ops.expm1(ops.minimum(ratio, 0.5)), p - q)


def kl_from_probabilities(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """Compute `KL(p || q)` in nats over the last axis, given `ratio = log p - log q`."""
    # sum p * ratio = sum (p * ratio + q - p), since p and q each sum to 1. No term of the second sum is negative, and
    # an error common to all ratios enters squared. A term is p * (exp(-ratio) - 1 + ratio), which cancels near 0; its
    # power series does not.
    near = ops.abs(ratio) < 0.5
    x = ops.where(near, ratio, 0.0)
    # 1/2! - x/3! + x^2/4! - ..., the sum of (-x)^n / n! for n >= 2, over x^2.
    series = 1 / math.factorial(8)
    for order in range(7, 1, -1):
        series = series * x + (-1) ** order / math.factorial(order)
    return ops.sum(ops.where(near, p * ops.square(x) * series, p * ratio + q - p), axis=-1)
