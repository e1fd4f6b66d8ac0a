"""Distillation of independent yes-or-no answers: multi-label classification, detection, a single logit."""

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.maths import float32, kl_from_logits


def binary_kd(student, teacher, temperature=1.0):
    """Divergence of the student's softened probability from the teacher's, of each label on its own.

    ```
    loss = T^2/labels * sum_c [p_t[c] * log(p_t[c] / p_s[c]) + (1 - p_t[c]) * log((1 - p_t[c]) / (1 - p_s[c]))]
    p = sigmoid(logits / T)
    ```

    Binary cross-entropy with the teacher's probabilities as targets is larger by their entropy and has the same
    gradient. Published code leaves `T^2` out, and takes the sum over labels as often as the mean.

    Args:
        student: Logits, shape `[batch, positions..., labels]`.
        teacher: Logits, the same shape.
        temperature: Above 0.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531, with a sigmoid in place of the softmax
    """
    # A sigmoid is the softmax over a logit and 0.
    student, teacher = (ops.stack([z, ops.zeros_like(z)], axis=-1) for z in float32(student, teacher))
    return temperature**2 * ops.mean(kl_from_logits(student, teacher, temperature), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class BinaryKD(SoftenedLoss):
    """`binary_kd` as a loss for a `Term`; with positions (tokens, pixels, boxes), their mean.

    Args:
        temperature: A number or a schedule, default 1.
    """

    activation = "Sigmoid"

    def __init__(self, temperature=1.0, **kwargs):
        super().__init__(temperature, **kwargs)

    def divergence(self, student, teacher, temperature):
        return binary_kd(student, teacher, temperature)
