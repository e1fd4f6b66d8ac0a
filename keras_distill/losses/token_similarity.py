"""Similarities between the positions of an example, for features without labels."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions, shapes_match
from keras_distill.losses.maths import channels_first, float32, unit_vectors
from keras_distill.losses.softened import kl_from_logits
from keras_distill.models.masking import expand_to_rank, mean_over_positions
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def token_similarity(
    student: Tensor, teacher: Tensor, temperature: float | Tensor = 0.07, position_weight: Tensor | None = None
) -> Tensor:
    """Compute the KL divergence of each position's similarities to all positions of its example.

    ```
    loss_m = KL(softmax_n(<t_m, t_n> / T) || softmax_n(<s_m, s_n> / T)),  m and n = positions
    ```

    `s` and `t` are scaled to unit length. Unlike for soft targets, there is no factor `T^2`.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features at the same positions; channels may differ.
        temperature: Temperature of the similarities, > 0. Defaults to 0.07.
        position_weight: Weight of each position, shape `[batch, positions...]`. A position of weight 0 is excluded from
            the softmax; other weights have no effect. Defaults to None: all positions are included.

    Returns:
        Nats, shape `[batch, positions...]`.
    """
    shape = ops.shape(student)[:-1]
    student, teacher = (_similarities(x) for x in float32(student, teacher))
    if position_weight is not None:
        weight = expand_to_rank(ops.cast(position_weight, "float32"), len(shape) + 1)
        present = channels_first(ops.broadcast_to(weight, (*shape, 1))) > 0
        # Not -inf: the difference of two infinite scores is NaN.
        student, teacher = ops.where(present, student, -1e30), ops.where(present, teacher, -1e30)
    return ops.reshape(kl_from_logits(student, teacher, temperature), shape)


def _similarities(features):
    """Return the cosines of all pairs of positions, shape `[batch, positions, positions]`."""
    tokens = unit_vectors(ops.swapaxes(channels_first(features), 1, 2))
    return ops.matmul(tokens, ops.swapaxes(tokens, 1, 2))


@keras.saving.register_keras_serializable("keras_distill")
class TokenSimilarity(DistillationLoss):
    """Similarity between the positions of each example, for dense features without labels.

    Distills the feature maps or tokens of a foundation model into a smaller backbone for segmentation and detection.
    The student's feature map must have the teacher's resolution; `head="auto"` then maps channels and resolution. It is
    the local loss of LightlyTrain; `QueueSimilarity` is the global one. Memory grows with the square of the number of
    positions.

    Args:
        temperature: Temperature of the similarities, > 0, a number or a schedule. 0.05 to 0.2 is typical. Defaults to
            0.07.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule, or when the distiller is made, if an
            activation has no positions.

    Example:
    >>> term = Term(TokenSimilarity(), "block_2", "block_4", head=Convolution())
    """

    def __init__(self, temperature: ScheduleLike = 0.07, **kwargs: Any):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_positions("TokenSimilarity", student_shape, teacher_shape)

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return shapes_match(student_shape[1:-1], teacher_shape[1:-1])

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        weight = batch.position_weight
        values = token_similarity(student, teacher, value_at(self.temperature, batch.step), weight)
        return mean_over_positions(values, weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
