"""Neuron selectivity transfer (NST): where the channels of a layer are active, taken as a distribution."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import channels_first, float32, match_resolutions, resolutions_can_match, unit_vectors


def neuron_selectivity_transfer(student, teacher):
    """Squared maximum mean discrepancy between the channels of the student and those of the teacher.

    ```
    loss = mean_ij k(t_i, t_j) + mean_ij k(s_i, s_j) - 2 * mean_ij k(s_i, t_j)
    k(x, y) = <x, y>^2;  s_i, t_i = the i-th channel's activations over all positions, scaled to length 1
    ```

    The paper's best kernel, a polynomial of degree 2. Channels may differ. Where heights or widths differ, the larger
    features are averaged down to the smaller size.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features, of the same rank.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Huang and Wang, 2017, https://arxiv.org/abs/1707.01219
    """
    student, teacher = (
        unit_vectors(channels_first(features)) for features in match_resolutions(*float32(student, teacher))
    )
    return _similarity(teacher, teacher) + _similarity(student, student) - 2.0 * _similarity(student, teacher)


def _similarity(first, second):
    return ops.mean(ops.square(ops.matmul(first, ops.swapaxes(second, 1, 2))), axis=(1, 2))


@keras.saving.register_keras_serializable("keras_distill")
class NeuronSelectivityTransfer(DistillationLoss):
    """`neuron_selectivity` as a loss for a `Term`. Needs no head.

    Maps may differ in size; sequences must be equally long.
    """

    def comparable(self, student_shape, teacher_shape):
        return resolutions_can_match(student_shape, teacher_shape)

    def build(self, student_shape, teacher_shape):
        check_positions("NeuronSelectivityTransfer", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        # Padded positions hold 0, which adds nothing to a product.
        return neuron_selectivity_transfer(student, teacher)
