"""Regression of the teacher's logits."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions


def logit_mse(student, teacher):
    """Mean squared difference of the logits.

    ```
    loss = 1/classes * sum_c (z_s[c] - z_t[c])^2
    ```

    Unlike the divergences it sees a shift of all logits. The paper has half the sum over the classes; published code
    for transformers has the sum, and a temperature that only divides the loss by its square.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.

    Returns:
        The square of the logits' unit, shape `[batch, positions...]`.

    Reference:
        Ba and Caruana, NeurIPS 2014, https://arxiv.org/abs/1312.6184
    """
    student, teacher = float32(student, teacher)
    return ops.mean(ops.square(student - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class LogitMSE(DistillationLoss):
    """`logit_mse` as a loss for a `Term`; with positions (tokens, pixels), their mean."""

    logits = True
    pointwise = True

    def compare(self, student, teacher, batch):
        return mean_over_positions(logit_mse(student, teacher), batch.position_weight)
