"""Masked generative distillation (MGD): the teacher's features, regained from a part of the student's."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import expand_to_rank


def masked_generative(generated, teacher):
    """Squared distance between the features that a head generates and the teacher's.

    ```
    loss = sum_c (g[c] - t[c])^2,  g = G(f_s * mask)
    ```

    It is the head that hides a part of the student's features and generates the whole from the rest.

    Args:
        generated: The student's features after the head, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.

    Returns:
        The square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Yang et al., ECCV 2022, https://arxiv.org/abs/2205.01529, equation 3
    """
    generated, teacher = float32(generated, teacher)
    return ops.sum(ops.square(generated - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class MaskedGenerative(DistillationLoss):
    """`masked_generative` as a loss for a `Term`, summed over positions as in the paper: weights are small, 2e-5 there.

    ```python
    Term(MaskedGenerative(), "block_3", "block_6", Masking(), weight=2e-5)
    ```
    """

    def compare(self, student, teacher, batch):
        values = masked_generative(student, teacher)
        if batch.position_weight is not None:
            values = values * expand_to_rank(ops.cast(batch.position_weight, "float32"), len(values.shape))
        return ops.sum(ops.reshape(values, (ops.shape(values)[0], -1)), axis=-1)
