"""Attention-based fusion of a student's levels (ReviewKD)."""

import keras
import numpy as np
from keras import ops

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps

MOST_CHANNELS = 512


def nearest(maps, size):
    """Maps of another height and width, each entry that of the nearest one before, as in the authors' code.

    Args:
        maps: Shape `[batch, height, width, channels]`.
        size: The new `(height, width)`.
    """
    # Keras takes the nearest centre, which is another entry where sizes are no multiples of one another.
    for axis, length in zip((1, 2), size):
        if maps.shape[axis] != length:
            maps = ops.take(maps, np.arange(length) * maps.shape[axis] // length, axis=axis)
    return maps


@keras.saving.register_keras_serializable("keras_distill")
class Fusion(Head):
    """Brings each level of the student together with all deeper ones, and to the teacher's shape.

    ```
    x_i = conv1x1(student_i);  r = what is handed on from level i + 1, at the size of x_i
    a, b = sigmoid(conv1x1([x_i, r]))                  two maps of one channel; x_i and r are scaled by them
    r_i = a * x_i + b * r, at the teacher's size;      handed on to level i - 1
    fused_i = conv3x3(r_i)                             to the teacher's channels
    ```

    The deepest level has nothing to be fused with: `r_i = x_i`. Batch normalisation follows all convolutions but that
    of the attention; sizes are changed by repeating and leaving out.

    Takes a tuple of maps of known height and width, the shallowest first, with as many levels as the teacher, and gives
    the tuple of fused maps; a single map is a deepest level. Meant for a `HierarchicalContext` loss, with which it is
    knowledge review:

    ```python
    Term(HierarchicalContext(), ("block_1", "block_2", "block_3"), ("block_1", "block_2", "block_3"), Fusion())
    ```

    The authors' deepest level is the average over positions: tap a `GlobalAveragePooling2D(keepdims=True)` for it.

    Args:
        channels: Of what is handed on, default those of the student's deepest level, but not above 512.

    Raises:
        ValueError: If `channels` is no whole number, 1 or more.

    Reference:
        Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044
    """

    takes_several = True

    def __init__(self, channels=None, **kwargs):
        super().__init__(**kwargs)
        if channels is not None and (isinstance(channels, bool) or not isinstance(channels, int) or channels < 1):
            raise ValueError(f"`channels` must be an integer, 1 or more, or None. Received: {channels!r}")
        self.channels = channels

    def build(self, student_shape, teacher_shape):
        self.several = isinstance(student_shape[0], (tuple, list))
        levels, targets = (student_shape, teacher_shape) if self.several else ((student_shape,), (teacher_shape,))
        if self.several != isinstance(teacher_shape[0], (tuple, list)) or len(levels) != len(targets):
            raise ValueError(
                "Fusion needs as many levels of the student as of the teacher. "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
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
            both = (*level[:-1], 2 * channels)
            attend = self._convolution(both, 2, 1, f"attend_{index}", "glorot_uniform", True, activation="sigmoid")
            self.attend.append(attend)

    def _convolution(self, shape, channels, kernel_size, name, initializer="lecun_uniform", use_bias=False, **options):
        # lecun_uniform is the authors' kaiming_uniform with a = 1.
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

    def call(self, student, training=False):
        levels, fused, handed_on = student if self.several else (student,), [], None
        for index in reversed(range(len(levels))):
            maps = self.reduced[index](self.reduce[index](levels[index]), training=training)
            if handed_on is not None:
                handed_on = nearest(handed_on, maps.shape[1:3])
                attention = self.attend[index](ops.concatenate([maps, handed_on], axis=-1))
                maps = maps * attention[..., :1] + handed_on * attention[..., 1:]
            handed_on = nearest(maps, self.sizes[index])
            fused.append(self.expanded[index](self.expand[index](handed_on), training=training))
        return tuple(reversed(fused)) if self.several else fused[0]

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}
