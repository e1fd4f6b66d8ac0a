"""Crops and shifts of images."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill.data.augmentation import Augmentation, like
from keras_distill.data.mixtures import check_images
from keras_distill.utils.arguments import check_integer, check_number


@dataclasses.dataclass(frozen=True)
class Crops(Augmentation):
    """Random crops of images, resized to the original size, and mirrored half of the time.

    Teacher and student see the same crop, which teaches better than outputs for another crop ("consistent teaching").

    Args:
        area: Smallest part of the area of an image, in (0, 1]. 0.08 to 0.8 is typical. Defaults to 0.5.
        flip: Whether half of the crops are mirrored left to right. False suits digits and text. Defaults to True.

    Raises:
        ValueError: If `area` is out of (0, 1]; when called, if inputs are not images of shape
            `[examples, height, width, channels]`.

    Reference:
        Beyer et al., CVPR 2022, https://arxiv.org/abs/2106.05237

    Example:

    >>> from keras_distill.data import Crops, augment
    >>> images = np.random.default_rng(0).random((8, 6, 6, 1), "float32")
    >>> new_images, _ = augment(Crops(area=0.6), images, size=2)
    """

    area: float = 0.5
    flip: bool = True

    def __post_init__(self):
        check_number(self.area, "area", above=0, at_most=1)

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        check_images(inputs, "Crops")
        count, height, width = inputs.shape[:3]
        area = generator.uniform(self.area, 1, count)
        # Aspect ratios from 3/4 to 4/3, as far as the crop fits into the image.
        ratio = np.sqrt(np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3), count)))
        sizes = np.minimum(np.stack([np.sqrt(area) / ratio, np.sqrt(area) * ratio], axis=1), 1)
        corners = generator.uniform(size=(count, 2)) * (1 - sizes)
        # Corners of pixels, as fractions of the image, where TensorFlow counts centers.
        scale = np.array([height, width])
        pixel = scale.clip(2) - 1
        low = (corners * scale + sizes / 2 - 0.5) / pixel
        high = ((corners + sizes) * scale - sizes / 2 - 0.5) / pixel
        # TensorFlow fills with 0 what rounding moves out of the image.
        low, high = np.clip(low, 1e-6, 1 - 1e-6), np.clip(high, 1e-6, 1 - 1e-6)
        if self.flip:
            mirrored = generator.random(count) < 0.5
            low[mirrored, 1], high[mirrored, 1] = high[mirrored, 1], low[mirrored, 1]
        boxes = np.concatenate([low, high], axis=1).astype("float32")
        with tf.device("CPU:0"):
            crops = tf.image.crop_and_resize(inputs.astype("float32"), boxes, np.arange(count), (height, width))
        return like(crops.numpy(), inputs), labels


@dataclasses.dataclass(frozen=True)
class Shifts(Augmentation):
    """Images shifted by whole pixels in both directions; what moves in is filled with 0.

    Args:
        pixels: Largest shift in pixels, >= 1. 1 to 4 is typical. Defaults to 2.

    Raises:
        ValueError: If `pixels` is not an integer >= 1; when called, if inputs are not images of shape
            `[examples, height, width, channels]`.

    Example:

    >>> from keras_distill.data import Shifts, augment
    >>> images = np.random.default_rng(0).random((8, 6, 6, 1), "float32")
    >>> new_images, _ = augment(Shifts(1), images, size=2)
    """

    pixels: int = 2

    def __post_init__(self):
        check_integer(self.pixels, "pixels")

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        check_images(inputs, "Shifts")
        count, height, width = inputs.shape[:3]
        padding = [(0, 0), (self.pixels, self.pixels), (self.pixels, self.pixels), (0, 0)]
        padded = np.pad(inputs, padding)
        down, right = generator.integers(0, 2 * self.pixels + 1, (2, count))
        rows, columns = down[:, None] + np.arange(height), right[:, None] + np.arange(width)
        return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]], labels
