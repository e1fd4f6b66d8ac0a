"""Convolution head for feature maps."""

from typing import Any

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize, resize
from keras_distill.types import Tensor


@keras.saving.register_keras_serializable("keras_distill")
class Convolution(Head):
    """Convolution to the teacher's channels, then bilinear resizing to its height and width.

    Takes feature maps of shape `[batch, height, width, channels]`. A height or width that is unknown when the head is
    built is assumed to equal the teacher's. `head="auto"` chooses this head for feature maps.

    Args:
        kernel_size: Height and width of the kernel, an integer or a pair of integers; borders are padded with zeros.
            Defaults to 1.
        use_bias: True to add a trained bias. Defaults to True.
        kernel_initializer: Initializer of the kernel, as for `keras.layers.Conv2D`. Defaults to "glorot_uniform".
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: When the distiller is made, if an activation is not a feature map with known channels.

    Example:
    >>> term = Term(Hint(), student="block_2", teacher="block_4", head=Convolution(kernel_size=3))
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int] = 1,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
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

    def call(self, student: Tensor) -> Tensor:
        maps = self.convolution(student)
        return maps if self.size is None else resize(maps, self.size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
