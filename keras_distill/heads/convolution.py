"""Convolution of maps to another number of channels and another size."""

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize, resize


@keras.saving.register_keras_serializable("keras_distill")
class Convolution(Head):
    """Convolution to the teacher's channels, then bilinear interpolation to its height and width.

    Takes maps of shape `[batch, height, width, channels]`. A size that is unknown when the head is built is taken to
    be the teacher's already.

    Args:
        kernel_size: Height and width of the kernel, default 1; borders are padded.
        use_bias: Whether to add a trained bias, default True.
        kernel_initializer: As for `keras.layers.Conv2D`, default `"glorot_uniform"`.
    """

    def __init__(self, kernel_size=1, use_bias=True, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, student_shape, teacher_shape):
        check_maps("Convolution", student_shape, teacher_shape)
        self.size = teacher_shape[1:3] if needs_resize(student_shape, teacher_shape) else None
        self.convolution = keras.layers.Conv2D(
            teacher_shape[-1],
            self.kernel_size,
            padding="same",
            data_format="channels_last",
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.convolution.build(student_shape)

    def call(self, student):
        maps = self.convolution(student)
        return maps if self.size is None else resize(maps, self.size)

    def get_config(self):
        config = {
            "kernel_size": self.kernel_size,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **config}
