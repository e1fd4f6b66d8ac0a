"""Masked generative distillation (MGD)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import expand_to_rank
from keras_distill.types import Tensor


def masked_generative(generated: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared distance between generated features and the teacher's.

    ```
    loss = sum_c (g[c] - t[c])^2,  g = G(f_s * mask)
    ```

    The `Masking` head applies the mask and the generator `G`.

    Args:
        generated: Output of the head, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.

    Returns:
        Square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Yang et al., ECCV 2022, https://arxiv.org/abs/2205.01529, equation 3
    """
    generated, teacher = float32(generated, teacher)
    return ops.sum(ops.square(generated - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class MaskedGenerative(DistillationLoss):
    """Masked generative distillation loss (MGD), summed over positions.

    Needs a `Masking` head. As the loss is a sum over all entries, as in the paper, weights are small: the authors use
    2e-5 for one-stage detectors and segmentation and 7e-5 for classification.

    Reference:
        Yang et al., ECCV 2022, https://arxiv.org/abs/2205.01529

    Example:
    >>> term = Term(MaskedGenerative(), student="block_2", teacher="block_4", head=Masking(), weight=2e-5)
    """

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = masked_generative(student, teacher)
        if batch.position_weight is not None:
            values = values * expand_to_rank(ops.cast(batch.position_weight, "float32"), len(values.shape))
        return ops.sum(ops.reshape(values, (ops.shape(values)[0], -1)), axis=-1)
