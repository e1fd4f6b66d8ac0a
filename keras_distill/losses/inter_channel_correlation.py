"""Inter-channel correlation (ICKD): which channels of a layer resemble one another."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import channels_first, float32, unit_vectors


def inter_channel_correlation(student, teacher):
    """Squared difference of the similarities among channels.

    ```
    loss = 1/channels^2 * sum_cd (G_s[c, d] - G_t[c, d])^2
    G = rows of F F^T, each divided by its length;  F = features, one flat row per channel
    ```

    Positions may differ. The mean over all pairs is the paper's; the authors' two programs divide by the channels once,
    and one of them by the batch size twice.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features with as many channels.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Liu et al., ICCV 2021, https://arxiv.org/abs/2202.03680
    """
    student, teacher = (_similarities(features) for features in float32(student, teacher))
    return ops.mean(ops.square(student - teacher), axis=(1, 2))


def _similarities(features):
    channels = channels_first(features)
    # A dead channel resembles none; the authors' code divides by its length, and the gradient explodes.
    return unit_vectors(ops.matmul(channels, ops.swapaxes(channels, 1, 2)))


@keras.saving.register_keras_serializable("keras_distill")
class InterChannelCorrelation(DistillationLoss):
    """`inter_channel` as a loss for a `Term`. Unlike numbers of channels need a head."""

    def comparable(self, student_shape, teacher_shape):
        return shapes_match(student_shape[-1:], teacher_shape[-1:])

    def build(self, student_shape, teacher_shape):
        check_positions("InterChannelCorrelation", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        # Padded positions hold 0, which adds nothing to a product.
        return inter_channel_correlation(student, teacher)
