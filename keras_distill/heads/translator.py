"""Translator head of factor transfer (FT)."""

from typing import Any

import keras
from keras import ops

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize
from keras_distill.models.resampling import resize_maps
from keras_distill.types import Tensor

SLOPE = 0.1


@keras.saving.register_keras_serializable("keras_distill")
class Translator(Head):
    """Translator of factor transfer (FT): three 3x3 convolutions with leaky ReLU.

    The first convolution keeps the student's channels, the second maps them to the factors' channels. The output is
    resized to the factors' height and width by bilinear interpolation, where they are known to differ. Use it with the
    `FactorTransfer` loss and the tap `"factors"` of a `ParaphrasedTeacher`, or with a feature map of any teacher.

    Args:
        normalization: True to add batch normalization after each convolution, instead of a bias. Defaults to False, as
            in the authors' code.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: When the distiller is made, if an activation is not a feature map with known channels.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977

    Example:
    >>> term = Term(FactorTransfer(), student="block_2", teacher="block_4", head=Translator())
    """

    def __init__(self, normalization: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.normalization = normalization

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
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

    def call(self, student: Tensor, training: bool = False) -> Tensor:
        for index, convolution in enumerate(self.convolutions):
            student = convolution(student)
            if self.normalization:
                student = self.normalizations[index](student, training=training)
            student = ops.leaky_relu(student, SLOPE)
        return student if self.size is None else resize_maps(student, self.size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "normalization": self.normalization}
