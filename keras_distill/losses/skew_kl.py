"""Skewed Kullback-Leibler divergence (SKL), a loss of DistiLLM."""

from typing import Any

import keras

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.distributions import kl_to_mixture
from keras_distill.losses.softened import softmax_pair
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_number


def skew_kl(student: Tensor, teacher: Tensor, skew: float | Tensor = 0.1, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the Kullback-Leibler divergence of a mixture from the teacher, `KL(teacher || mixture)`.

    ```
    loss = T^2 * sum_c p_t[c] * (log p_t[c] - log m[c])
    m = skew * p_t + (1 - skew) * p_s;  p = softmax(logits / T)
    ```

    The teacher's share of the mixture bounds the loss and its gradient where the student's probability is near 0, which
    makes training on texts of the student itself more stable. Published code omits `T^2`.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        skew: Weight of the teacher in the mixture, > 0 and < 1, or a tensor that broadcasts to the logits. Defaults to
            0.1.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Nats, shape `[batch, positions...]`; at most `-log(skew) * T^2`.

    Reference:
        Ko et al., ICML 2024, https://arxiv.org/abs/2402.03898
    """
    q, p, ratio = softmax_pair(*finite_logits(student, teacher), temperature)
    return temperature**2 * kl_to_mixture(p, q, ratio, skew)


@keras.saving.register_keras_serializable("keras_distill")
class SkewKL(SoftenedLoss):
    """Skewed KL divergence loss (SKL, DistiLLM), averaged over positions.

    Takes logits.

    Args:
        skew: Weight of the teacher in the mixture, > 0 and < 1. 0.1 is typical. Defaults to 0.1.
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `skew` is not a number > 0 and < 1, or if `temperature` is not a finite number > 0 or a schedule;
            when built, for logits of a single class.

    Reference:
        See `skew_kl`.

    Example:
    >>> term = Term(SkewKL(), weight=1.0, over="tokens")
    """

    def __init__(self, skew: float = 0.1, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)
        self.skew = check_number(skew, "skew", above=0, below=1)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("SkewKL", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return skew_kl(student, teacher, self.skew, temperature)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "skew": self.skew}
