"""Knowledge distillation from softened logits (KD)."""

import keras

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import float32, kl_from_logits


def kl_divergence(student, teacher, temperature):
    """Divergence of the student's softened class probabilities from the teacher's.

    ```
    loss = T^2 * sum_c p_t[c] * (log p_t[c] - log p_s[c])
    p = softmax(logits / T)
    ```

    Takes logits. `T^2` keeps the gradient's size roughly independent of the temperature.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        temperature: Above 0; a higher one brings out the improbable classes.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531
    """
    student, teacher = float32(student, teacher)
    return temperature**2 * kl_from_logits(student, teacher, temperature)


@keras.saving.register_keras_serializable("keras_distill")
class KLDivergence(SoftenedLoss):
    """`kl_divergence` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        temperature: A number or a schedule, default 4.
    """

    def __init__(self, temperature=4.0, **kwargs):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape, teacher_shape):
        check_classes("KLDivergence", student_shape, teacher_shape)

    def divergence(self, student, teacher, temperature):
        return kl_divergence(student, teacher, temperature)
