"""Convolution head for feature maps."""

from typing import Any

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_positions, needs_resize
from keras_distill.models.resampling import resize_maps
from keras_distill.types import Tensor


@keras.saving.register_keras_serializable("keras_distill")
class Convolution(Head):
    """Convolution to the teacher's channels, then linear interpolation to its resolution.

    Takes series, feature maps and volumes of shape `[batch, positions..., channels]`. Lengths that are unknown when the
    distiller is made are matched in each step. `head="auto"` chooses this head where the channels differ.

    Args:
        kernel_size: Size of the kernel along the positions, an integer or a tuple of integers; borders are padded with
            zeros. Defaults to 1.
        use_bias: True to add a trained bias. Defaults to True.
        kernel_initializer: Initializer of the kernel, as for `keras.layers.Conv2D`. Defaults to "glorot_uniform".
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: When the distiller is made, if an activation is not a series, feature map or volume with
            known channels.

    Example:
    >>> term = Term(Hint(), student="block_2", teacher="block_4", head=Convolution(kernel_size=3))
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, ...] = 1,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_positions("Convolution", student_shape, teacher_shape)
        self.size = teacher_shape[1:-1] if needs_resize(student_shape, teacher_shape) else None
        layer = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}[len(student_shape)]
        self.convolution = layer(
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
        return maps if self.size is None else resize_maps(maps, self.size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
