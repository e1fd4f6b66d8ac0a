"""Skewed reverse Kullback-Leibler divergence (SRKL), a loss of DistiLLM."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.distributions import kl_to_mixture, log_ratio_to_mixture
from keras_distill.losses.softened import softmax_pair
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_number


def skew_reverse_kl(
    student: Tensor,
    teacher: Tensor,
    skew: float | Tensor = 0.1,
    temperature: float | Tensor = 1.0,
    detach: bool = False,
) -> Tensor:
    """Compute the Kullback-Leibler divergence of a mixture from the student, `KL(student || mixture)`.

    ```
    loss = T^2 * sum_c p_s[c] * (log p_s[c] - log m[c])
    m = skew * p_s + (1 - skew) * p_t;  p = softmax(logits / T)
    ```

    Mode-seeking as `reverse_kl`, but bounded where the teacher's probability is near 0. Published code omits `T^2`.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        skew: Weight of the student in the mixture, > 0 and < 1, or a tensor that broadcasts to the logits. Defaults to
            0.1.
        temperature: Softmax temperature, > 0. Defaults to 1.
        detach: Whether the mixture is a constant for the gradient, as in the code of DistiLLM-2. The value is the same.
            Defaults to False, the gradient of DistiLLM.

    Returns:
        Nats, shape `[batch, positions...]`; at most `-log(skew) * T^2`.

    Reference:
        Ko et al., ICML 2024, https://arxiv.org/abs/2402.03898; Ko et al., ICML 2025, https://arxiv.org/abs/2503.07067
    """
    q, p, ratio = softmax_pair(*finite_logits(student, teacher), temperature)
    values = kl_to_mixture(q, p, -ratio, skew)
    if detach:
        # With a constant mixture, the derivative of sum q * (log q - log m) is that of q times the constant log ratio:
        # the derivatives of q * log q add up to 0, because the probabilities sum to 1.
        log_ratio = ops.stop_gradient(log_ratio_to_mixture(-ratio, skew))
        values = ops.stop_gradient(values) + ops.sum(log_ratio * (q - ops.stop_gradient(q)), axis=-1)
    return temperature**2 * values


@keras.saving.register_keras_serializable("keras_distill")
class SkewReverseKL(SoftenedLoss):
    """Skewed reverse KL divergence loss (SRKL, DistiLLM), averaged over positions.

    Takes logits.

    Args:
        skew: Weight of the student in the mixture, > 0 and < 1. 0.1 is typical. Defaults to 0.1.
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        detach: Whether the mixture is a constant for the gradient, as in the code of DistiLLM-2. Defaults to False.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `skew` is not a number > 0 and < 1, or if `temperature` is not a finite number > 0 or a schedule;
            when built, for logits of a single class.

    Reference:
        See `skew_reverse_kl`.

    Example:
    >>> term = Term(SkewReverseKL(), weight=1.0, over="tokens")
    """

    def __init__(self, skew: float = 0.1, temperature: ScheduleLike = 1.0, detach: bool = False, **kwargs: Any):
        super().__init__(temperature, **kwargs)
        self.skew = check_number(skew, "skew", above=0, below=1)
        self.detach = detach

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("SkewReverseKL", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return skew_reverse_kl(student, teacher, self.skew, temperature, self.detach)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "skew": self.skew, "detach": self.detach}
