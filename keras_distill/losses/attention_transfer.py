"""Attention transfer (AT)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import float32, match_resolutions, resolutions_can_match, unit_vectors
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_number


def attention_transfer(student: Tensor, teacher: Tensor, power: float = 2) -> Tensor:
    """Compute the squared difference of two normalized spatial attention maps.

    ```
    loss = (a_s / ||a_s|| - a_t / ||a_t||)^2 at each position
    a = 1/channels * sum_c |f[c]|^p
    ```

    Equation 2 of the paper uses the norm of the difference. The authors' published code, which this function follows,
    uses the mean of its squares: published results were made with it, and it has a gradient where the maps are equal.
    Channels may differ. Where height or width differ, the larger feature map is average-pooled to the smaller size
    before the attention map is computed.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features of the same rank.
        power: Exponent `p`, >= 1. A higher power emphasizes the most active positions. 2 is typical. Defaults to 2.

    Returns:
        Unitless, shape `[batch, positions...]`.

    Reference:
        Zagoruyko and Komodakis, ICLR 2017, https://arxiv.org/abs/1612.03928
    """
    student, teacher = match_resolutions(*float32(student, teacher))
    return ops.square(_attention(student, power) - _attention(teacher, power))


def _attention(features, power):
    # `square` takes a fraction of the time of `power`, and 2 is the usual exponent.
    powers = ops.square(features) if power == 2 else ops.power(ops.abs(features), power)
    maps = ops.mean(powers, axis=-1)
    flat = ops.reshape(maps, (ops.shape(maps)[0], -1))
    return ops.reshape(unit_vectors(flat), ops.shape(maps))


@keras.saving.register_keras_serializable("keras_distill")
class AttentionTransfer(DistillationLoss):
    """Attention transfer loss (AT), averaged over positions. No head is needed.

    Compares where two layers are active, summed over their channels. Feature maps may differ in channels, height and
    width; sequences must have the same length. The authors' code and RepDistiller use a weight of 1000.

    Args:
        power: Exponent of the activations, a finite number >= 1. 2 is typical. Defaults to 2.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `power` is not a finite number >= 1, or when the distiller is made, if an activation has no
            positions.

    Reference:
        Zagoruyko and Komodakis, ICLR 2017, https://arxiv.org/abs/1612.03928

    Example:
    >>> term = Term(AttentionTransfer(), student="block_2", teacher="block_4", weight=1000.0)
    """

    resizable = False

    def __init__(self, power: float = 2, **kwargs: Any):
        super().__init__(**kwargs)
        # Below 1 the gradient is infinite at every activation that is 0.
        self.power = check_number(power, "power", at_least=1)

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return resolutions_can_match(student_shape, teacher_shape)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_positions("AttentionTransfer", student_shape, teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(attention_transfer(student, teacher, self.power), batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "power": self.power}
