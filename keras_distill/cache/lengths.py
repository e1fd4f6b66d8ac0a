"""Examples of different lengths, such as texts: their batches, and their positions in the arrays of a cache."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache.indexing import as_element, split_element
from keras_distill.types import Structure, Tensor

# Name of the array with the number of positions of each example.
LENGTHS = "lengths"


def vary(inputs: Structure) -> bool:
    """Return whether the examples have an axis of unknown length.

    Args:
        inputs: Structure of `tf.TensorSpec` of one example.
    """
    return any(None in tuple(spec.shape) for spec in keras.tree.flatten(inputs))


def batched(dataset: tf.data.Dataset, batch_size: int) -> Iterator[tuple[Any, Tensor | None]]:
    """Yield batches of an indexed dataset, padded with 0, and the lengths of their examples.

    Args:
        dataset: Indexed dataset of single examples.
        batch_size: Number of examples per batch.

    Yields:
        `(element, lengths)`; `lengths` is an int32 tensor of shape `[batch]`, or None for inputs of fixed shape.
    """
    if vary(split_element(dataset.element_spec)[0]):
        yield from dataset.map(_with_length).padded_batch(batch_size).prefetch(tf.data.AUTOTUNE)
    else:
        yield from ((element, None) for element in dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE))


def token_mask(activation: Tensor, lengths: Tensor) -> Tensor:
    """Return which positions belong to the examples, booleans of shape `[batch, longest]`.

    Args:
        activation: Shape `[batch, positions, ...]`.
        lengths: Length of each example, shape `[batch]`.

    Raises:
        tf.errors.InvalidArgumentError: If the activation has other positions than the inputs.
    """
    longest = tf.reduce_max(lengths)
    check = tf.debugging.assert_equal(
        tf.shape(activation)[1],
        longest,
        "A cache of examples of different lengths stores activations with one row for each position of the inputs. "
        "Store other taps, or pad the examples to one length.",
    )
    with tf.control_dependencies([check]):
        return tf.sequence_mask(lengths, longest)


def positions_of(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return where the positions of examples are stored, shape `[sum of their lengths]`.

    Args:
        rows: Numbers of the examples in a shard.
        lengths: Length of each example of the shard.
    """
    starts, own = (np.cumsum(lengths) - lengths)[rows], lengths[rows]
    within = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
    return np.repeat(starts, own) + within


def _with_length(*element: Any) -> tuple[Any, tf.Tensor]:
    element = as_element(element)
    inputs: Structure = split_element(element)[0]
    first = next((leaf for leaf in keras.tree.flatten(inputs) if leaf.shape[:1] == [None]), None)
    if first is None:
        raise ValueError("The first axis of an input must be the one of unknown length. Pad the other axes.")
    return element, tf.shape(first)[0]
