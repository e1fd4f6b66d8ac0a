"""Pooling and resizing of feature maps and of weights of positions, for lengths known before training or not."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill.types import Tensor


def position_size(activation: Tensor) -> tuple[int | Tensor, ...]:
    """Return the lengths of the position axes of an activation, integers where they are known.

    Args:
        activation: Shape `[batch, positions..., channels]`.
    """
    return tuple(ops.shape(activation)[1:-1])


def is_known(lengths: Sequence[int | Tensor | None]) -> bool:
    """Return whether all lengths are integers."""
    return all(isinstance(length, int) for length in lengths)


def resize_maps(maps: Tensor, size: Sequence[int | Tensor]) -> Tensor:
    """Resize series, feature maps or volumes by linear interpolation.

    Args:
        maps: Shape `[batch, length, channels]`, `[batch, height, width, channels]` or
            `[batch, depth, height, width, channels]`.
        size: New lengths of the positions, integers or scalar tensors.

    Returns:
        The resized maps, the dtype of `maps`.
    """
    old, channels = position_size(maps), maps.shape[-1]
    if len(old) == 2 and not is_known(size):
        # The function of Keras takes Python integers only.
        return ops.cast(tf.image.resize(maps, tf.stack(size), "bilinear"), maps.dtype)
    if len(old) == 2:
        return ops.image.resize(maps, tuple(size), interpolation="bilinear", data_format="channels_last")
    if len(old) == 1:
        return ops.squeeze(resize_maps(ops.expand_dims(maps, 2), (size[0], 1)), axis=2)
    rows = old[1] * old[2]
    deep = resize_maps(ops.reshape(maps, (-1, old[0], rows, channels)), (size[0], rows))
    frames = resize_maps(ops.reshape(deep, (-1, old[1], old[2], channels)), size[1:])
    return ops.reshape(frames, (-1, *size, channels))


def resize_weights(weights: Tensor, size: Sequence[int | Tensor]) -> Tensor:
    """Resize weights of positions by area: each new weight is the mean over the area that the new position covers.

    Args:
        weights: float32, shape `[batch, positions...]`.
        size: New lengths of the positions, integers or scalar tensors. A single axis whose length is unknown before the
            first step is not resized.

    Returns:
        float32, shape `[batch, *size]`. Lengths that stay the same change no digit.
    """
    for axis, (length, bins) in enumerate(zip(ops.shape(weights)[1:], size), 1):
        if is_known((length, bins)):
            weights = weights if length == bins else _product(weights, _area_matrix(length, bins), axis)
        # Texts of unknown length have the same tokens in both.
        elif len(size) > 1:
            weights = _product(weights, _area_matrix(length, bins), axis)
    return weights


def adaptive_average_pool(features: Tensor, axis: int, bins: int | Tensor) -> Tensor:
    """Average-pool one axis of n positions: bin i averages positions floor(i*n/bins) to ceil((i+1)*n/bins) - 1.

    Args:
        features: Any shape.
        axis: The axis that is pooled.
        bins: New length of the axis, an integer or a scalar tensor.

    Returns:
        The pooled features.
    """
    length = ops.shape(features)[axis]
    if is_known((length, bins)) and length == bins:
        return features
    # A product with a matrix: XLA has no adaptive pooling, and bins may overlap.
    bin_index, position = _indices(length, bins)
    start, stop = bin_index * length // bins, -(-(bin_index + 1) * length // bins)
    return _product(features, _normalized((position >= start) & (position < stop)), axis)


def _area_matrix(length, bins):
    bin_index, position = _indices(length, bins)
    library = np if is_known((length, bins)) else tf
    # Edges of bins and positions in units of 1 / (length * bins), so that they are integers.
    start = library.maximum(bin_index * length, position * bins)
    stop = library.minimum((bin_index + 1) * length, (position + 1) * bins)
    return _normalized(library.maximum(stop - start, 0))


def _indices(length, bins):
    """Return indices of shape `[1, bins]` and `[length, 1]`."""
    count = np.arange if is_known((length, bins)) else tf.range
    return count(bins)[None], count(length)[:, None]


def _normalized(matrix):
    """Return a matrix `[length, bins]` with columns of sum 1."""
    if isinstance(matrix, np.ndarray):
        return (matrix / matrix.sum(0)).astype("float32")
    matrix = tf.cast(matrix, "float32")
    return matrix / tf.reduce_sum(matrix, axis=0)


def _product(features, matrix, axis):
    return ops.moveaxis(ops.tensordot(features, ops.cast(matrix, features.dtype), axes=[[axis], [0]]), -1, axis)
