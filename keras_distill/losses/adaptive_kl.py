"""Adaptive Kullback-Leibler divergence (AKL), a blend of forward and reverse divergence per position."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import kl_from_probabilities, probability_difference, softmax_pair
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_number


def adaptive_kl(student: Tensor, teacher: Tensor, mu: float = 0.5, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute forward and reverse KL divergence, weighted by the errors on probable and on improbable classes.

    ```
    loss = T^2 * (w * KL(p_t || p_s) + (1 - w) * KL(p_s || p_t)),  p = softmax(logits / T)
    w = gap(head) / (gap(head) + gap(tail)),  gap(classes) = sum of |p_t - p_s| over the classes
    head = the teacher's most probable class, and the next ones while their probabilities sum to at most mu
    ```

    The forward divergence mainly fits the head of the teacher's distribution, the reverse divergence mainly its tail.
    The weights are constants for the gradient. As in the authors' code, the class that raises the sum above `mu` is in
    the tail. The classes of every position are sorted, which costs more than the divergences themselves.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        mu: Largest total probability of the head, 0 to 1. Defaults to 0.5.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Wu et al., COLING 2025, https://arxiv.org/abs/2404.02657
    """
    q, p, ratio = softmax_pair(*finite_logits(student, teacher), temperature)
    weight = ops.stop_gradient(_head_weight(p, ops.abs(probability_difference(q, p, ratio)), mu))
    forward, reverse = kl_from_probabilities(p, q, ratio), kl_from_probabilities(q, p, -ratio)
    return temperature**2 * (weight * forward + (1.0 - weight) * reverse)


def _head_weight(p, gap, mu):
    """Return the share of the head in the sum of the gaps, shape `[...]`; 0 if all gaps are 0."""
    descending, order = ops.top_k(p, p.shape[-1])
    gap = ops.take_along_axis(gap, order, axis=-1)
    in_head = ops.logical_or(ops.arange(p.shape[-1]) == 0, ops.cumsum(descending, axis=-1) <= mu)
    return ops.divide_no_nan(ops.sum(ops.where(in_head, gap, 0.0), axis=-1), ops.sum(gap, axis=-1))


@keras.saving.register_keras_serializable("keras_distill")
class AdaptiveKL(SoftenedLoss):
    """Adaptive KL divergence loss (AKL), averaged over positions.

    Takes logits.

    Args:
        mu: Largest total probability of the head of the teacher's distribution, 0 to 1. 0.5 is typical. Defaults to
            0.5.
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `mu` is not a number from 0 to 1, or if `temperature` is not a finite number > 0 or a schedule;
            when built, for logits of a single class.

    Reference:
        See `adaptive_kl`.

    Example:
    >>> term = Term(AdaptiveKL(), weight=1.0, over="tokens")
    """

    def __init__(self, mu: float = 0.5, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)
        self.mu = check_number(mu, "mu", at_least=0, at_most=1)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("AdaptiveKL", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return adaptive_kl(student, teacher, self.mu, temperature)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mu": self.mu}
