"""Inter-channel correlation (ICKD)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions, shapes_match
from keras_distill.losses.maths import channels_first, float32, unit_vectors
from keras_distill.types import Tensor


def inter_channel_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared difference of the similarity matrices of the channels.

    ```
    loss = 1/channels^2 * sum_cd (G_s[c, d] - G_t[c, d])^2
    G = rows of F F^T, each scaled to unit length;  F = features, one flat row per channel
    ```

    Positions may differ. The mean over all pairs is the paper's; both programs of the authors divide by the number of
    channels only once, and one of them divides by the batch size twice.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features with the same number of channels.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Liu et al., ICCV 2021, https://arxiv.org/abs/2202.03680
    """
    student, teacher = float32(student, teacher)
    return ops.mean(ops.square(_similarities(student) - _similarities(teacher)), axis=(1, 2))


def _similarities(features):
    channels = channels_first(features)
    # A dead channel has only similarities of 0. The authors' code divides by their length, and the gradient explodes.
    return unit_vectors(ops.matmul(channels, ops.swapaxes(channels, 1, 2)))


@keras.saving.register_keras_serializable("keras_distill")
class InterChannelCorrelation(DistillationLoss):
    """Inter-channel correlation loss (ICKD).

    Compares the similarities between the channels of a layer, so height and width may differ. Use a `Convolution` head
    (`head="auto"`) where the numbers of channels differ. The authors' weight of 2.5 on CIFAR-100 multiplies the sum
    over all pairs divided once by the number of channels; for this mean, it corresponds to 2.5 times that number.

    Raises:
        ValueError: When the distiller is made, if an activation has no positions.

    Reference:
        Liu et al., ICCV 2021, https://arxiv.org/abs/2202.03680

    Example:
    >>> term = Term(InterChannelCorrelation(), student="block_2", teacher="block_4", head="auto", weight=2.5 * 16)
    """

    resizable = False

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return shapes_match(student_shape[-1:], teacher_shape[-1:])

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_positions("InterChannelCorrelation", student_shape, teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        # Padded positions are 0, so they add nothing to a product.
        return inter_channel_correlation(student, teacher)
