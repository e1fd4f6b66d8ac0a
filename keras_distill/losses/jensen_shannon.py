"""Generalized Jensen-Shannon divergence (JSD), the loss of generalized knowledge distillation (GKD)."""

from typing import Any

import keras

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.distributions import kl_to_mixture
from keras_distill.losses.softened import kl_from_logits, softmax_pair
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_number


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float = 0.5, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the weighted KL divergences of both distributions from their mixture.

    ```
    loss = T^2 * (beta * KL(p_t || m) + (1 - beta) * KL(p_s || m))
    m = beta * p_t + (1 - beta) * p_s;  p = softmax(logits / T)
    ```

    `beta` is the weight of the teacher, as in the paper. Small values approach the forward divergence, large values the
    reverse divergence. At 0 and 1, where both parts vanish, the loss is `KL(p_t || p_s)` and `KL(p_s || p_t)`: the
    limits of the loss over `beta` and over `1 - beta`. Published code omits `T^2`.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        beta: Weight of the teacher in the mixture, 0 to 1. Defaults to 0.5.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Nats, shape `[batch, positions...]`; at most `log 2 * T^2`, unless `beta` is 0 or 1.

    Reference:
        Agarwal et al., ICLR 2024, https://arxiv.org/abs/2306.13649, equation 1
    """
    student, teacher = finite_logits(student, teacher)
    if beta == 0:
        return temperature**2 * kl_from_logits(student, teacher, temperature)
    if beta == 1:
        return temperature**2 * kl_from_logits(teacher, student, temperature)
    q, p, ratio = softmax_pair(student, teacher, temperature)
    teacher_part, student_part = kl_to_mixture(p, q, ratio, beta), kl_to_mixture(q, p, -ratio, 1.0 - beta)
    return temperature**2 * (beta * teacher_part + (1.0 - beta) * student_part)


@keras.saving.register_keras_serializable("keras_distill")
class JensenShannon(SoftenedLoss):
    """Generalized Jensen-Shannon divergence loss (JSD, GKD), averaged over positions.

    Takes logits. Interpolates between `KLDivergence` (`beta=0`) and `ReverseKL` (`beta=1`).

    Args:
        beta: Weight of the teacher in the mixture, 0 to 1. 0.1 to 0.9 is typical. Defaults to 0.5.
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `beta` is not a number from 0 to 1, or if `temperature` is not a finite number > 0 or a schedule;
            when built, for logits of a single class.

    Reference:
        See `jensen_shannon`.

    Example:
    >>> term = Term(JensenShannon(beta=0.9), weight=1.0)
    """

    def __init__(self, beta: float = 0.5, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)
        self.beta = check_number(beta, "beta", at_least=0, at_most=1)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("JensenShannon", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return jensen_shannon(student, teacher, self.beta, temperature)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}
