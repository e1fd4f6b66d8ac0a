"""Attention-based fusion head of knowledge review (ReviewKD)."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps
from keras_distill.types import Structure, Tensor
from keras_distill.utils.arguments import check_integer

MOST_CHANNELS = 512


def resize_nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize feature maps by nearest-neighbor interpolation, rounding down, as in the authors' code.

    Args:
        maps: Shape `[batch, height, width, channels]`.
        size: The new height and width.

    Returns:
        The resized feature maps.
    """
    # keras.ops.image.resize chooses the nearest center instead, another entry where one size is not a multiple of the
    # other.
    for axis, length in zip((1, 2), size):
        if maps.shape[axis] != length:
            maps = ops.take(maps, np.arange(length) * maps.shape[axis] // length, axis=axis)
    return maps


@keras.saving.register_keras_serializable("keras_distill")
class Fusion(Head):
    """Attention-based fusion (ABF) of feature maps at several levels (ReviewKD).

    Fuses each level of the student with all deeper levels and maps it to the teacher's shape.

    ```
    x_i = conv1x1(student_i);  r = residual of level i + 1, resized to x_i
    a, b = sigmoid(conv1x1([x_i, r]))                  two attention maps of one channel
    r_i = a * x_i + b * r, at the teacher's size       residual for level i - 1
    fused_i = conv3x3(r_i)                             to the teacher's channels
    ```

    The deepest level has no residual: `r_i = x_i`. Batch normalization follows every convolution except those of the
    attention; resizing uses nearest neighbors.

    Takes a tuple of feature maps of known height and width, the shallowest first, with as many levels as the teacher,
    and returns the tuple of fused maps. A single feature map is treated as a deepest level. Use it with the
    `HierarchicalContext` loss. The authors' deepest level is the average over positions: tap a
    `GlobalAveragePooling2D(keepdims=True)` for it.

    Args:
        channels: Number of channels of the residuals, an integer >= 1. Defaults to None: the channels of the student's
            deepest level, but at most 512.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `channels` is not an integer >= 1 or None, or when the distiller is made, if student and teacher
            have different numbers of levels or a feature map has unknown height, width or channels.

    Reference:
        Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044

    Example:
    >>> student_levels, teacher_levels = ("block_1", "block_2"), ("block_2", "block_4")
    >>> term = Term(HierarchicalContext(), student=student_levels, teacher=teacher_levels, head=Fusion(), weight=5.0)
    """

    takes_several = True

    def __init__(self, channels: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = check_integer(channels, "channels", optional=True)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        self.several = isinstance(student_shape[0], (tuple, list))
        levels, targets = (student_shape, teacher_shape) if self.several else ((student_shape,), (teacher_shape,))
        if self.several != isinstance(teacher_shape[0], (tuple, list)) or len(levels) != len(targets):
            raise ValueError(
                "Fusion needs as many levels of the student as of the teacher. "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}"
            )
        for shapes in zip(levels, targets):
            check_maps("Fusion", *shapes, sized=True)
        channels = self.channels or min(levels[-1][-1], MOST_CHANNELS)
        self.sizes = [tuple(shape[1:3]) for shape in targets]
        self.reduce, self.attend, self.expand, self.reduced, self.expanded = [], [], [], [], []
        for index, (level, target) in enumerate(zip(levels, targets)):
            self.reduce.append(self._convolution(level, channels, 1, f"reduce_{index}"))
            self.reduced.append(self._normalization(channels, f"reduced_{index}"))
            self.expand.append(self._convolution((*target[:-1], channels), target[-1], 3, f"expand_{index}"))
            self.expanded.append(self._normalization(target[-1], f"expanded_{index}"))
        for index, level in enumerate(levels[:-1]):
            concatenated = (*level[:-1], 2 * channels)
            name = f"attend_{index}"
            attend = self._convolution(concatenated, 2, 1, name, "glorot_uniform", True, activation="sigmoid")
            self.attend.append(attend)

    def _convolution(self, shape, channels, kernel_size, name, initializer="lecun_uniform", use_bias=False, **options):
        # lecun_uniform equals the authors' kaiming_uniform with a = 1.
        convolution = keras.layers.Conv2D(
            channels,
            kernel_size,
            padding="same",
            data_format="channels_last",
            kernel_initializer=initializer,
            use_bias=use_bias,
            dtype=self.dtype_policy,
            name=name,
            **options,
        )
        convolution.build(tuple(shape))
        return convolution

    def _normalization(self, channels, name):
        layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name=name)
        layer.build((None, None, None, channels))
        return layer

    def call(self, student: Structure, training: bool = False) -> Structure:
        levels, fused, residual = student if self.several else (student,), [], None
        for index in reversed(range(len(levels))):
            maps = self.reduced[index](self.reduce[index](levels[index]), training=training)
            if residual is not None:
                residual = resize_nearest(residual, maps.shape[1:3])
                attention = self.attend[index](ops.concatenate([maps, residual], axis=-1))
                maps = maps * attention[..., :1] + residual * attention[..., 1:]
            residual = resize_nearest(maps, self.sizes[index])
            fused.append(self.expanded[index](self.expand[index](residual), training=training))
        return tuple(reversed(fused)) if self.several else fused[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}
