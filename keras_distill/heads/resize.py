"""Resizing head for feature maps."""

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_positions, needs_resize
from keras_distill.models.resampling import resize_maps
from keras_distill.types import Tensor


@keras.saving.register_keras_serializable("keras_distill")
class Resize(Head):
    """Linear interpolation to the teacher's resolution, without weights.

    For series, feature maps and volumes with the same channels in both networks, such as the logits of a segmentation
    model. Lengths that are unknown when the distiller is made are matched in each step. `head="auto"` chooses this head
    where the channels agree.

    Raises:
        ValueError: When the distiller is made, if an activation is not a series, feature map or volume with
            known channels.

    Example:
    >>> term = Term(AttentionTransfer(), student="block_2", teacher="block_2", head=Resize())
    """

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_positions("Resize", student_shape, teacher_shape)
        self.size = teacher_shape[1:-1] if needs_resize(student_shape, teacher_shape) else None

    def call(self, student: Tensor) -> Tensor:
        return student if self.size is None else resize_maps(student, self.size)
