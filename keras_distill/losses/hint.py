"""Hint training (FitNets)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference of two features.

    ```
    loss = 1/channels * sum_c (f_s[c] - f_t[c])^2
    ```

    The paper uses half the sum over all entries. The mean keeps the weight of the term independent of the size of the
    layer.

    Args:
        student: Features after the head, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.

    Returns:
        Square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Romero et al., ICLR 2015, https://arxiv.org/abs/1412.6550
    """
    student, teacher = float32(student, teacher)
    return ops.mean(ops.square(student - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class Hint(DistillationLoss):
    """Hint loss (FitNets): mean squared error of features, averaged over positions.

    Use a head where shapes differ; `head="auto"` chooses a `Projection` for vectors and tokens and a `Convolution` for
    feature maps. The size of the loss depends on the scale of the features: RepDistiller uses a weight of 100.

    Reference:
        Romero et al., ICLR 2015, https://arxiv.org/abs/1412.6550

    Example:
    >>> term = Term(Hint(), student="block_2", teacher="block_4", head="auto", weight=100.0)
    """

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(hint(student, teacher), batch.position_weight)
