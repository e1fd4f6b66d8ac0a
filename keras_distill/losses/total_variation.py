"""Total variation distance of softened class probabilities (TVD)."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import probability_difference, softmax_pair
from keras_distill.types import ScheduleLike, Tensor


def total_variation(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute half the L1 distance of softened class probabilities.

    ```
    loss = T/2 * sum_c |p_t[c] - p_s[c]|
    p = softmax(logits / T)
    ```

    `T` keeps the size of the gradient roughly independent of the temperature. The distance is of first order in the
    logits, so the `T^2` of the divergences, which some published code applies, would be too large.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Probability times `T`, 0 to `T`, shape `[batch, positions...]`.

    Reference:
        Wen et al., ACL 2023, https://arxiv.org/abs/2307.15190
    """
    difference = probability_difference(*softmax_pair(*finite_logits(student, teacher), temperature))
    return temperature / 2.0 * ops.sum(ops.abs(difference), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class TotalVariation(SoftenedLoss):
    """Total variation distance loss (TVD), averaged over positions.

    Takes logits.

    Args:
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `total_variation`.

    Example:
    >>> term = Term(TotalVariation(), weight=1.0)
    """

    def __init__(self, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("TotalVariation", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return total_variation(student, teacher, temperature)
