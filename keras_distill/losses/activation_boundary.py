"""Activation boundaries (AB): which neurons fire."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, value_at


def activation_boundary(student, teacher, margin=1.0):
    """Squared hinge loss: the student's pre-activation is to have the teacher's sign, by a margin.

    ```
    loss = 1/channels * sum_c (max(0, m - s[c])^2 if t[c] > 0 else max(0, m + s[c])^2)
    ```

    Compare what goes into the ReLU, not what comes out of it. Only the teacher's signs count: at the teacher's own
    values the loss is not 0, unless all of them are beyond the margin. The paper has the sum over all entries.

    Args:
        student: Features before the activation, after the head, shape `[batch, positions..., channels]`.
        teacher: Features before the activation, the same shape.
        margin: Above 0, in the unit of the student's features.

    Returns:
        The square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Heo et al., AAAI 2019, https://arxiv.org/abs/1811.03233, equation 5
    """
    student, teacher = float32(student, teacher)
    signed = ops.where(teacher > 0, student, -student)
    return ops.mean(ops.square(ops.relu(margin - signed)), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class ActivationBoundary(DistillationLoss):
    """`activation_boundary` as a loss for a `Term`, averaged over positions. Features of unlike shapes need a head.

    Args:
        margin: A number or a schedule, default 1.
    """

    def __init__(self, margin=1.0, **kwargs):
        super().__init__(**kwargs)
        self.margin = check_positive(margin, "margin")

    def compare(self, student, teacher, batch):
        values = activation_boundary(student, teacher, value_at(self.margin, batch.step))
        return mean_over_positions(values, batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}
