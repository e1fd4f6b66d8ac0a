"""Neuron selectivity transfer (NST)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import channels_first, float32, match_resolutions, resolutions_can_match, unit_vectors
from keras_distill.types import Tensor


def neuron_selectivity_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared maximum mean discrepancy (MMD) between the channels of two layers.

    ```
    loss = mean_ij k(t_i, t_j) + mean_ij k(s_i, s_j) - 2 * mean_ij k(s_i, t_j)
    k(x, y) = <x, y>^2;  s_i, t_i = activations of channel i over all positions, scaled to unit length
    ```

    The kernel is the paper's best one, a polynomial of degree 2. Channels may differ. Where height or width differ, the
    larger feature map is average-pooled to the smaller size.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features of the same rank.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Huang and Wang, 2017, https://arxiv.org/abs/1707.01219
    """
    student, teacher = match_resolutions(*float32(student, teacher))
    student, teacher = unit_vectors(channels_first(student)), unit_vectors(channels_first(teacher))
    return _mean_kernel(teacher, teacher) + _mean_kernel(student, student) - 2.0 * _mean_kernel(student, teacher)


def _mean_kernel(first, second):
    return ops.mean(ops.square(ops.matmul(first, ops.swapaxes(second, 1, 2))), axis=(1, 2))


@keras.saving.register_keras_serializable("keras_distill")
class NeuronSelectivityTransfer(DistillationLoss):
    """Neuron selectivity transfer loss (NST). No head is needed.

    Compares the distributions of the channels' activation patterns. Feature maps may differ in channels, height and
    width; sequences must have the same length. RepDistiller uses a weight of 50.

    Raises:
        ValueError: When the distiller is made, if an activation has no positions.

    Reference:
        Huang and Wang, 2017, https://arxiv.org/abs/1707.01219

    Example:
    >>> term = Term(NeuronSelectivityTransfer(), student="block_2", teacher="block_4", weight=50.0)
    """

    resizable = False

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return resolutions_can_match(student_shape, teacher_shape)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_positions("NeuronSelectivityTransfer", student_shape, teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        # Padded positions are 0, so they add nothing to a product.
        return neuron_selectivity_transfer(student, teacher)
