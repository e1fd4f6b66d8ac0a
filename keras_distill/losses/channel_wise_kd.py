"""Channel-wise knowledge distillation (CWD)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import channels_first, float32
from keras_distill.losses.softened import kl_from_logits
from keras_distill.models.masking import expand_to_rank
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def channel_wise_kd(
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor = 4.0,
    position_weight: Tensor | None = None,
) -> Tensor:
    """Compute the KL divergence between the spatial softmax of each channel.

    ```
    loss = T^2/channels * sum_c sum_i p_t[i, c] * (log p_t[i, c] - log p_s[i, c]),  i = a position
    p[:, c] = softmax over positions of (features[:, c] / T)
    ```

    Args:
        student: Features or logits, shape `[batch, positions..., channels]`.
        teacher: Features or logits, the same shape.
        temperature: Softmax temperature, > 0. A higher temperature includes more positions. 1 to 4 is typical. Defaults
            to 4.0.
        position_weight: Weight of each position, shape `[batch, positions...]`. A position of weight 0 is excluded from
            the softmax; other weights have no effect. Defaults to None: all positions are included.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Shu et al., ICCV 2021, https://arxiv.org/abs/2011.13256
    """
    student, teacher = float32(student, teacher)
    if position_weight is not None:
        present = expand_to_rank(position_weight, len(student.shape)) > 0
        # Not -inf: the difference of two infinite logits is NaN.
        student, teacher = ops.where(present, student, -1e30), ops.where(present, teacher, -1e30)
    values = kl_from_logits(channels_first(student), channels_first(teacher), temperature)
    return temperature**2 * ops.mean(values, axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class ChannelWiseKD(DistillationLoss):
    """Channel-wise knowledge distillation loss (CWD).

    For dense prediction (segmentation, detection), on logits or features: a softmax over classes is dominated by the
    background at most pixels, a softmax over the positions of each channel is not. Use a `Convolution` head
    (`head="auto"`) where channels, height or width differ. The paper uses a weight of 3 for logits and 50 for features.

    Args:
        temperature: Softmax temperature, > 0, a number or a schedule. 1 to 4 is typical. Defaults to 4.0.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a number > 0 or a schedule, or when the distiller is made, if an activation
            has no positions.

    Reference:
        Shu et al., ICCV 2021, https://arxiv.org/abs/2011.13256

    Example:
    >>> term = Term(ChannelWiseKD(temperature=4.0), student="block_2", teacher="block_4", head="auto", weight=50.0)
    """

    def __init__(self, temperature: ScheduleLike = 4.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_positions("ChannelWiseKD", student_shape, teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return channel_wise_kd(student, teacher, value_at(self.temperature, batch.step), batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
