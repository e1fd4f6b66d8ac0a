"""Total variation distance (TVD) of the softened probabilities."""

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import float32, probability_difference, softmax_pair


def total_variation(student, teacher, temperature=1.0):
    """Probability that the student puts on other classes than the teacher does.

    ```
    loss = T/2 * sum_c |p_t[c] - p_s[c]|
    p = softmax(logits / T)
    ```

    `T` keeps the gradient's size roughly independent of the temperature; the distance is of first order in the
    logits, so that the `T^2` of the divergences, which some published code applies, would be too much.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        temperature: Above 0.

    Returns:
        A probability times `T`, shape `[batch, positions...]`.

    Reference:
        Wen et al., ACL 2023, https://arxiv.org/abs/2307.15190
    """
    gaps = probability_difference(*softmax_pair(*float32(student, teacher), temperature))
    return temperature / 2.0 * ops.sum(ops.abs(gaps), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class TotalVariation(SoftenedLoss):
    """`total_variation` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        temperature: A number or a schedule, default 1.
    """

    def __init__(self, temperature=1.0, **kwargs):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape, teacher_shape):
        check_classes("TotalVariation", student_shape, teacher_shape)

    def divergence(self, student, teacher, temperature):
        return total_variation(student, teacher, temperature)
