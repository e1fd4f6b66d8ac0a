"""Negative log acceptance rate (LK), a loss for draft models of speculative decoding."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import probability_difference, softmax_pair
from keras_distill.types import ScheduleLike, Tensor


def acceptance_likelihood(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the negative logarithm of the rate at which a teacher accepts the student's tokens.

    ```
    loss = -T * log(max(sum_c min(p_t[c], p_s[c]), 1e-5))
    p = softmax(logits / T)
    ```

    In speculative decoding the sum is the probability that a token drafted by the student is accepted. The minimum
    bounds the loss, which has no gradient there. `T` keeps the size of the gradient roughly independent of the
    temperature; published code has a temperature of 1.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Nats, shape `[batch, positions...]`; at most `11.6 * T`.

    Reference:
        Samarin et al., 2026, https://arxiv.org/abs/2602.23881
    """
    q, p, ratio = softmax_pair(*finite_logits(student, teacher), temperature)
    distance = ops.sum(ops.abs(probability_difference(q, p, ratio)), axis=-1) / 2.0
    rate = ops.sum(ops.minimum(q, p), axis=-1)
    # 1 - distance is the rate, too. It is accurate near 1, the sum of the minima near 0.
    near = distance < 0.5
    nats = ops.where(
        near, -ops.log1p(-ops.where(near, distance, 0.0)), -ops.log(ops.maximum(ops.where(near, 1.0, rate), 1e-5))
    )
    return temperature * nats


@keras.saving.register_keras_serializable("keras_distill")
class AcceptanceLikelihood(SoftenedLoss):
    """Negative log acceptance loss (LK), averaged over positions: trains a draft model for speculative decoding.

    Takes logits. `metrics.Acceptance` reports the rate itself.

    Args:
        temperature: Softmax temperature, > 0, a number or a schedule: that of decoding. 1 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `acceptance_likelihood`.

    Example:
    >>> term = Term(AcceptanceLikelihood(), weight=1.0, over="tokens")
    """

    def __init__(self, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("AcceptanceLikelihood", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return acceptance_likelihood(student, teacher, temperature)
