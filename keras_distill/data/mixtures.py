"""Mixtures of two examples: mixup and CutMix."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_distill.data.augmentation import Augmentation, like
from keras_distill.utils.arguments import check_number


@dataclasses.dataclass(frozen=True)
class _Mixture(Augmentation):
    """Examples that are mixed with others, in shares of a symmetric Beta distribution. Abstract."""

    concentration: float = 1.0
    mixes_labels = True

    def __post_init__(self):
        check_number(self.concentration, "concentration", above=0)

    def draw(self, count, generator):
        """Return the index of the partner and the share of each example, both of shape `[examples]`."""
        return generator.permutation(count), generator.beta(self.concentration, self.concentration, count)


class Mixup(_Mixture):
    """Weighted means of two examples, for images, tables and other real-valued inputs.

    Args:
        concentration: Parameter of the symmetric Beta distribution of the weights, > 0. 1 makes all weights equally
            likely, smaller ones leave most examples nearly unmixed. 0.2 to 1 is typical. Defaults to 1.0.

    Raises:
        ValueError: If `concentration` is not > 0; when called, for inputs or labels that cannot be averaged.

    Reference:
        Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412

    Example:

    >>> from keras_distill.data import Mixup, augment
    >>> new_x, _ = augment(Mixup(), x, size=2)
    """

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        count = len(keras.tree.flatten(inputs)[0])
        partner, share = self.draw(count, generator)
        return mixed(inputs, partner, share, "Mixup", "inputs"), mixed_labels(labels, partner, share, "Mixup")


class CutMix(_Mixture):
    """Images in which a rectangle is replaced by that of another image.

    Args:
        concentration: Parameter of the symmetric Beta distribution of the area that remains, > 0. Defaults to 1.0.

    Raises:
        ValueError: If `concentration` is not > 0; when called, if inputs are not images of shape
            `[examples, height, width, channels]`.

    Reference:
        Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899

    Example:

    >>> from keras_distill.data import CutMix, augment
    >>> images = np.random.default_rng(0).random((8, 6, 6, 1), "float32")
    >>> new_images, _ = augment(CutMix(), images, size=2)
    """

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        check_images(inputs, "CutMix")
        count, height, width = inputs.shape[:3]
        partner, share = self.draw(count, generator)
        side = np.sqrt(1 - share)
        rows = _interval(generator, height, side)
        columns = _interval(generator, width, side)
        inside = (rows[:, :, None] & columns[:, None, :])[..., None]
        # At the border, the rectangle is smaller than drawn.
        kept = 1 - inside.mean(axis=(1, 2, 3))
        return np.where(inside, inputs[partner], inputs), mixed_labels(labels, partner, kept, "CutMix")


def mixed(structure: Any, partner: np.ndarray, share: np.ndarray, name: str, role: str) -> Any:
    """Return weighted means of examples and their partners.

    Args:
        structure: Structure of arrays of shape `[examples, ...]`.
        partner: Index of the partner of each example, shape `[examples]`.
        share: Weight of the example itself, in [0, 1], shape `[examples]`.
        name: Name of the augmentation, for the error.
        role: "inputs" or "labels", for the error.

    Raises:
        ValueError: If the arrays are not numbers.
    """

    def mix(array):
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} averages numbers, but the {role} have dtype {array.dtype}.")
        weight = share.reshape(-1, *[1] * (array.ndim - 1)).astype("float32")
        return like(weight * array + (1 - weight) * array[partner], array)

    return keras.tree.map_structure(mix, structure)


def mixed_labels(labels: Any, partner: np.ndarray, share: np.ndarray, name: str) -> Any:
    """Return weighted means of labels; None without labels.

    Args:
        labels: Labels, a structure of real-valued arrays; or None.
        partner: As for `mixed`.
        share: As for `mixed`.
        name: As for `mixed`.

    Raises:
        ValueError: For class indices.
    """
    for array in keras.tree.flatten(labels):
        if array is not None and not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"{name} averages labels, which must be real numbers. Pass one-hot labels, "
                f"`keras.utils.to_categorical(y)`, or none. Received: labels of dtype {array.dtype}"
            )
    return None if labels is None else mixed(labels, partner, share, name, "labels")


def check_images(inputs: Any, name: str) -> None:
    """Raise ValueError if inputs are not images.

    Args:
        inputs: The inputs.
        name: Name of the augmentation.
    """
    if not isinstance(inputs, np.ndarray) or inputs.ndim != 4:
        received = f"shape {inputs.shape}" if isinstance(inputs, np.ndarray) else type(inputs).__name__
        raise ValueError(
            f"{name} takes images of shape [examples, height, width, channels]. Received: inputs of {received}"
        )


def _interval(generator, length, fraction):
    """Return masks of shape `[examples, length]` of intervals with random centers."""
    center = generator.uniform(0, length, len(fraction))
    low, high = center - fraction * length / 2, center + fraction * length / 2
    positions = np.arange(length) + 0.5
    return (positions >= low[:, None]) & (positions < high[:, None])
