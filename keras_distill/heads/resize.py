"""Bilinear resizing head for feature maps."""

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize, resize
from keras_distill.types import Tensor


@keras.saving.register_keras_serializable("keras_distill")
class Resize(Head):
    """Bilinear resizing to the teacher's height and width, without weights.

    For feature maps with the same channels in both networks, such as the logits of a segmentation model. A height or
    width that is unknown when the head is built is assumed to equal the teacher's.

    Raises:
        ValueError: When the distiller is made, if an activation is not a feature map with known channels.

    Example:
    >>> term = Term(AttentionTransfer(), student="block_2", teacher="block_2", head=Resize())
    """

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_maps("Resize", student_shape, teacher_shape)
        self.size = teacher_shape[1:3] if needs_resize(student_shape, teacher_shape) else None

    def call(self, student: Tensor) -> Tensor:
        return student if self.size is None else resize(student, self.size)
