"""Masking of a part of the student's map, and generation of the teacher's from the rest (MGD)."""

import keras
from keras import ops

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize, resize


def kept(uniform, ratio, channels=False):
    """Which entries of a map are left: 1 there, 0 where hidden.

    Args:
        uniform: Random numbers from 0 to 1, shape `[batch, height, width, 1]`, or `[batch, 1, 1, channels]`.
        ratio: The share to hide.
        channels: Whether channels are hidden, for which the authors' code takes the lower numbers, or positions.

    Returns:
        float32, the same shape.
    """
    return ops.cast(uniform >= ratio if channels else uniform <= 1.0 - ratio, "float32")


@keras.saving.register_keras_serializable("keras_distill")
class Masking(Head):
    """Hides random entries of the student's map and generates the teacher's with two 3x3 convolutions.

    Before, the map is brought to the teacher's channels by a 1x1 convolution and to its height and width by
    interpolation, where they differ. Nothing is hidden outside of training. Meant for a `MaskedGenerative` loss.

    Args:
        ratio: The share that is hidden, at least 0 and below 1, default 0.65.
        channels: Whether whole channels are hidden, as the authors do for classification; by default positions, as for
            detection and segmentation.

    Reference:
        Yang et al., ECCV 2022, https://arxiv.org/abs/2205.01529
    """

    def __init__(self, ratio=0.65, channels=False, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= ratio < 1:
            raise ValueError(f"`ratio` must be at least 0 and below 1. Received: {ratio!r}")
        self.ratio = ratio
        self.channels = channels
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, student_shape, teacher_shape):
        check_maps("Masking", student_shape, teacher_shape)
        self.size = teacher_shape[1:3] if needs_resize(student_shape, teacher_shape) else None
        channels, aligned = teacher_shape[-1], (*student_shape[:-1], teacher_shape[-1])
        self.align = None
        if student_shape[-1] != channels:
            self.align = self._convolution(channels, 1, "align")
            self.align.build(student_shape)
        self.first = self._convolution(channels, 3, "first", activation="relu")
        self.second = self._convolution(channels, 3, "second")
        self.first.build(aligned)
        self.second.build(aligned)

    def _convolution(self, channels, kernel_size, name, activation=None):
        return keras.layers.Conv2D(
            channels,
            kernel_size,
            padding="same",
            data_format="channels_last",
            activation=activation,
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, student, training=False):
        maps = student if self.align is None else self.align(student)
        maps = maps if self.size is None else resize(maps, self.size)
        if training:
            batch, height, width, channels = ops.shape(maps)
            shape = (batch, 1, 1, channels) if self.channels else (batch, height, width, 1)
            uniform = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
            maps = maps * kept(uniform, self.ratio, self.channels)
        return self.second(self.first(maps))

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio, "channels": self.channels}
