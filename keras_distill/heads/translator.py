"""The translator of factor transfer (FT)."""

import keras
from keras import ops

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize, resize

SLOPE = 0.1


@keras.saving.register_keras_serializable("keras_distill")
class Translator(Head):
    """Three 3x3 convolutions with leaky ReLU, from the student's map to the teacher's factors.

    The first keeps the student's channels, the second goes to the factors'. What comes out is interpolated to the
    factors' height and width, bilinearly, where they are known to differ. Meant for a `FactorTransfer` loss and the tap
    `"factors"` of a `ParaphrasedTeacher`; a teacher's map can be its own factors.

    Args:
        normalization: Whether each convolution has batch normalisation behind it, and no bias. Default False, as in the
            authors' code.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977
    """

    def __init__(self, normalization=False, **kwargs):
        super().__init__(**kwargs)
        self.normalization = normalization

    def build(self, student_shape, teacher_shape):
        check_maps("Translator", student_shape, teacher_shape)
        self.size = teacher_shape[1:3] if needs_resize(student_shape, teacher_shape) else None
        self.convolutions, self.normalizations = [], []
        shape, factors = student_shape, teacher_shape[-1]
        for index, channels in enumerate((student_shape[-1], factors, factors)):
            convolution = keras.layers.Conv2D(
                channels,
                3,
                padding="same",
                data_format="channels_last",
                use_bias=not self.normalization,
                dtype=self.dtype_policy,
                name=f"convolution_{index}",
            )
            convolution.build(shape)
            self.convolutions.append(convolution)
            shape = (*shape[:-1], channels)
            if self.normalization:
                layer = keras.layers.BatchNormalization(dtype=self.dtype_policy, name=f"normalization_{index}")
                layer.build(shape)
                self.normalizations.append(layer)

    def call(self, student, training=False):
        for index, convolution in enumerate(self.convolutions):
            student = convolution(student)
            if self.normalization:
                student = self.normalizations[index](student, training=training)
            student = ops.leaky_relu(student, SLOPE)
        return student if self.size is None else resize(student, self.size)

    def get_config(self):
        return {**super().get_config(), "normalization": self.normalization}
