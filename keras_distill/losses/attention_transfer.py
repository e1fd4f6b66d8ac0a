"""Attention transfer (AT): where a layer is active, whatever its channels are."""

import math
import numbers

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import float32, match_resolutions, resolutions_can_match, unit_vectors
from keras_distill.models.masking import mean_over_positions


def attention_transfer(student, teacher, power=2):
    """Squared difference of two normalised attention maps.

    ```
    loss = (a_s / ||a_s|| - a_t / ||a_t||)^2 at each position
    a = 1/channels * sum_c |f[c]|^p
    ```

    Equation 2 of the paper takes the norm of the difference; this is the authors' published code, which takes the mean
    of its squares. That is what their results and the comparisons of others were made with, and it has a gradient
    where the maps agree. Channels may differ. Where heights or widths differ, the larger features are averaged down
    to the smaller size before the map is taken.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features, of the same rank.
        power: `p`, 1 or more; a higher one attends to the most active positions.

    Returns:
        Unitless, shape `[batch, positions...]`.

    Reference:
        Zagoruyko and Komodakis, ICLR 2017, https://arxiv.org/abs/1612.03928
    """
    student, teacher = match_resolutions(*float32(student, teacher))
    return ops.square(_attention(student, power) - _attention(teacher, power))


def _attention(features, power):
    # A square takes a fraction of the time that a power does, and is what most ask for.
    powers = ops.square(features) if power == 2 else ops.power(ops.abs(features), power)
    maps = ops.mean(powers, axis=-1)
    flat = ops.reshape(maps, (ops.shape(maps)[0], -1))
    return ops.reshape(unit_vectors(flat), ops.shape(maps))


@keras.saving.register_keras_serializable("keras_distill")
class AttentionTransfer(DistillationLoss):
    """`attention_transfer` as a loss for a `Term`, averaged over positions. Needs no head.

    Maps may differ in size; sequences must be equally long.

    Args:
        power: Exponent of the activations, 1 or more, default 2.
    """

    def __init__(self, power=2, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(power, numbers.Real) or not 1 <= power < math.inf:
            # Below 1 the gradient is infinite at every activation that is 0.
            raise ValueError(f"`power` must be a finite number, 1 or more. Received: {power!r}")
        self.power = power

    def comparable(self, student_shape, teacher_shape):
        return resolutions_can_match(student_shape, teacher_shape)

    def build(self, student_shape, teacher_shape):
        check_positions("AttentionTransfer", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        return mean_over_positions(attention_transfer(student, teacher, self.power), batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "power": self.power}
