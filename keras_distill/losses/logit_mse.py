"""Mean squared error of logits (logit regression)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.class_masks import finite_logits, is_masked, mean_over_classes
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference of logits.

    ```
    loss = 1/classes * sum_c (z_s[c] - z_t[c])^2
    ```

    Unlike the divergences, the loss depends on a shift of all logits. Classes that either model masks, by a logit such
    as -inf, are left out. The paper has half the sum over the classes. Published code for transformers has the sum, and
    a temperature that only divides the loss by its square.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.

    Returns:
        The square of the unit of the logits, shape `[batch, positions...]`.

    Reference:
        Ba and Caruana, NeurIPS 2014, https://arxiv.org/abs/1312.6184
    """
    student, teacher = finite_logits(student, teacher)
    masked = ops.logical_or(is_masked(student), is_masked(teacher))
    squares = ops.where(masked, 0.0, ops.square(student - teacher))
    return mean_over_classes(squares, 1.0 - ops.cast(masked, "float32"))


@keras.saving.register_keras_serializable("keras_distill")
class LogitMSE(DistillationLoss):
    """Mean squared error of logits (logit MSE), averaged over positions.

    Args:
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Reference:
        See `logit_mse`.

    Example:
    >>> term = Term(LogitMSE(), weight=0.1)
    """

    logits = True
    pointwise = True

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(logit_mse(student, teacher), batch.position_weight)
