"""Neuron selectivity transfer (NST): where the channels of a layer are active, taken as a distribution."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.ops import (
    can_be_equally_large,
    check_positions,
    equally_large,
    float32,
    maps_as_rows,
    unit,
)


def neuron_selectivity(student, teacher):
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
    student, teacher = (unit(maps_as_rows(features)) for features in equally_large(*float32(student, teacher)))
    return _similarity(teacher, teacher) + _similarity(student, student) - 2.0 * _similarity(student, teacher)


def _similarity(first, second):
    return ops.mean(ops.square(ops.matmul(first, ops.swapaxes(second, 1, 2))), axis=(1, 2))


@keras.saving.register_keras_serializable("keras_distill")
class NeuronSelectivity(DistillationLoss):
    """`neuron_selectivity` as a loss for a `Term`. Needs no head.

    Maps may differ in size; sequences must be equally long.
    """

    def comparable(self, student_shape, teacher_shape):
        return can_be_equally_large(student_shape, teacher_shape)

    def build(self, student_shape, teacher_shape):
        check_positions("NeuronSelectivity", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        # Padded positions hold 0, which adds nothing to a product.
        return neuron_selectivity(student, teacher)
