"""Interpolation of maps to another size."""

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize, resize


@keras.saving.register_keras_serializable("keras_distill")
class Resize(Head):
    """Bilinear interpolation to the teacher's height and width; has no weights.

    For maps whose channels mean the same in both networks, such as the logits of a segmentation. A size that is
    unknown when the head is built is taken to be the teacher's already.
    """

    def build(self, student_shape, teacher_shape):
        check_maps("Resize", student_shape, teacher_shape)
        self.size = teacher_shape[1:3] if needs_resize(student_shape, teacher_shape) else None

    def call(self, student):
        return student if self.size is None else resize(student, self.size)
