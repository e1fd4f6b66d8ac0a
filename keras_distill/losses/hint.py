"""Hint training: the student's features imitate the teacher's (FitNets)."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions


def hint(student, teacher):
    """Mean squared difference of two features.

    ```
    loss = 1/channels * sum_c (f_s[c] - f_t[c])^2
    ```

    The paper has half the sum over all entries; a mean keeps the weight of the term independent of the layer's size.

    Args:
        student: Features after the head, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.

    Returns:
        The square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Romero et al., ICLR 2015, https://arxiv.org/abs/1412.6550
    """
    student, teacher = float32(student, teacher)
    return ops.mean(ops.square(student - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class Hint(DistillationLoss):
    """`hint` as a loss for a `Term`, averaged over positions. Features of unlike shapes need a head."""

    def compare(self, student, teacher, batch):
        return mean_over_positions(hint(student, teacher), batch.position_weight)
