"""Masking and generation head of masked generative distillation (MGD)."""

from typing import Any

import keras
from keras import ops

from keras_distill.heads.base import Head
from keras_distill.heads.checks import check_maps, needs_resize
from keras_distill.models.resampling import resize_maps
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_number


def kept(uniform: Tensor, ratio: float, channels: bool = False) -> Tensor:
    """Return a random mask: 1 for entries that are kept, 0 for entries that are masked.

    Args:
        uniform: Random numbers from 0 to 1, shape `[batch, height, width, 1]`, or `[batch, 1, 1, channels]`.
        ratio: Fraction of entries to mask, 0 to 1.
        channels: True to mask channels, False to mask positions. The authors' code masks low random numbers for
            channels and high ones for positions. Defaults to False.

    Returns:
        float32, the same shape as `uniform`.
    """
    return ops.cast(uniform >= ratio if channels else uniform <= 1.0 - ratio, "float32")


@keras.saving.register_keras_serializable("keras_distill")
class Masking(Head):
    """Random masking of the student's feature map, then two 3x3 convolutions that generate the teacher's (MGD).

    The feature map is first mapped to the teacher's channels by a 1x1 convolution and resized to its height and width
    by bilinear interpolation, where they differ. Masks are applied in training only. Use it with the `MaskedGenerative`
    loss.

    Args:
        ratio: Fraction of entries to mask, >= 0 and < 1. The authors use 0.65 for one-stage detectors, 0.75 for
            segmentation and 0.15 for classification. Defaults to 0.65.
        channels: True to mask whole channels, as the authors do for classification; False to mask positions, as for
            detection and segmentation. Defaults to False.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `ratio` is not a number >= 0 and < 1, or when the distiller is made, if an activation is not a
            feature map with known channels.

    Reference:
        Yang et al., ECCV 2022, https://arxiv.org/abs/2205.01529

    Example:
    >>> head = Masking(ratio=0.65)
    >>> term = Term(MaskedGenerative(), student="block_2", teacher="block_4", head=head, weight=2e-5)
    """

    def __init__(self, ratio: float = 0.65, channels: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.ratio = check_number(ratio, "ratio", at_least=0, below=1)
        self.channels = channels
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        check_maps("Masking", student_shape, teacher_shape)
        self.size = teacher_shape[1:3] if needs_resize(student_shape, teacher_shape) else None
        channels, aligned_shape = teacher_shape[-1], (*student_shape[:-1], teacher_shape[-1])
        self.align = None
        if student_shape[-1] != channels:
            self.align = self._convolution(channels, 1, "align")
            self.align.build(student_shape)
        self.first = self._convolution(channels, 3, "first", activation="relu")
        self.second = self._convolution(channels, 3, "second")
        self.first.build(aligned_shape)
        self.second.build(aligned_shape)

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

    def call(self, student: Tensor, training: bool = False) -> Tensor:
        maps = student if self.align is None else self.align(student)
        maps = maps if self.size is None else resize_maps(maps, self.size)
        if training:
            batch, height, width, channels = ops.shape(maps)
            shape = (batch, 1, 1, channels) if self.channels else (batch, height, width, 1)
            uniform = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
            maps = maps * kept(uniform, self.ratio, self.channels)
        return self.second(self.first(maps))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio, "channels": self.channels}
