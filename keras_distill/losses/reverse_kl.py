"""Reverse Kullback-Leibler divergence: the student avoids what the teacher finds improbable."""

import keras

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import float32, kl_from_logits


def reverse_kl(student, teacher, temperature=1.0):
    """Divergence of the teacher's softened class probabilities from the student's.

    ```
    loss = T^2 * sum_c p_s[c] * (log p_s[c] - log p_t[c])
    p = softmax(logits / T)
    ```

    A small student covers some of the teacher's modes well rather than all of them badly. The papers take a temperature
    of 1; published code for language models leaves `T^2` out at others.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        temperature: Above 0.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Gu et al., ICLR 2024, https://arxiv.org/abs/2306.08543; Agarwal et al., ICLR 2024,
        https://arxiv.org/abs/2306.13649
    """
    student, teacher = float32(student, teacher)
    return temperature**2 * kl_from_logits(teacher, student, temperature)


@keras.saving.register_keras_serializable("keras_distill")
class ReverseKL(SoftenedLoss):
    """`reverse_kl` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        temperature: A number or a schedule, default 1.
    """

    def __init__(self, temperature=1.0, **kwargs):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape, teacher_shape):
        check_classes("ReverseKL", student_shape, teacher_shape)

    def divergence(self, student, teacher, temperature):
        return reverse_kl(student, teacher, temperature)
