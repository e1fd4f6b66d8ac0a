"""Reverse Kullback-Leibler divergence (RKL), the loss of MiniLLM."""

from typing import Any

import keras

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import kl_from_logits
from keras_distill.types import ScheduleLike, Tensor


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the Kullback-Leibler divergence of softened class probabilities, `KL(student || teacher)`.

    ```
    loss = T^2 * sum_c p_s[c] * (log p_s[c] - log p_t[c])
    p = softmax(logits / T)
    ```

    Mode-seeking: a small student fits some modes of the teacher well instead of all of them badly, and avoids classes
    that are improbable under the teacher. The papers use a temperature of 1; published code for language models omits
    `T^2` at other temperatures.

    A class that only the teacher masks, by a logit such as -inf, has a term of the student's probability times at most
    100 nats instead of infinity. Its gradient lowers that probability.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Gu et al., ICLR 2024, https://arxiv.org/abs/2306.08543; Agarwal et al., ICLR 2024,
        https://arxiv.org/abs/2306.13649
    """
    student, teacher = finite_logits(student, teacher)
    return temperature**2 * kl_from_logits(teacher, student, temperature)


@keras.saving.register_keras_serializable("keras_distill")
class ReverseKL(SoftenedLoss):
    """Reverse KL divergence loss (RKL, MiniLLM), averaged over positions.

    Takes logits.

    Args:
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `reverse_kl`.

    Example:
    >>> term = Term(ReverseKL(), weight=1.0)
    """

    def __init__(self, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("ReverseKL", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return reverse_kl(student, teacher, temperature)
