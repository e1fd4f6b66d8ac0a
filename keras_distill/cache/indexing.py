"""Datasets whose examples carry their index and fingerprint."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import fingerprint
from keras_distill.data.batch import split_inputs, with_index
from keras_distill.types import Structure

_FINGERPRINT = "keras_distill/fingerprint"


def indexed(dataset: tf.data.Dataset | tuple) -> tf.data.Dataset:
    """Add the index and the fingerprint of every example to its inputs.

    An indexed dataset may be shuffled, filtered, repeated, augmented and batched: `TeacherCache.join` still finds the
    teacher outputs of each example. A dataset that is indexed already is returned unchanged.

    Example:
    >>> label(teacher, (x, y), "cache", verbose=0)
    >>> teacher_cache = open_cache("cache")
    >>> dataset = teacher_cache.join(indexed((x, y)).shuffle(32).batch(16))

    Args:
        dataset: `tf.data.Dataset` of single examples `x`, `(x, y)` or `(x, y, sample_weight)`, in the order in which
            they were labeled; or such a tuple of arrays.

    Returns:
        A `tf.data.Dataset` of single examples. `on_inputs` applies a function to their inputs.
    """
    if not isinstance(dataset, tf.data.Dataset):
        arrays = index_arrays(dataset)
        dataset = tf.data.Dataset.from_tensor_slices(dataset if arrays is None else arrays)
    if is_indexed(dataset):
        return dataset
    return dataset.enumerate().map(with_fingerprint, num_parallel_calls=tf.data.AUTOTUNE)


def index_arrays(element: Any, start: int = 0) -> Any:
    """Return the element of all examples at once, for arrays in memory; None if some inputs are lists.

    Args:
        element: Arrays or eager tensors `x`, `(x, y)` or `(x, y, sample_weight)` of all examples.
        start: Index of the first example. Defaults to 0.
    """
    inputs, rest = (element[0], tuple(element[1:])) if isinstance(element, tuple) else (element, ())
    leaves = keras.tree.flatten(inputs)
    lengths = {tuple(leaf.shape[:1]) if isinstance(leaf, np.ndarray | tf.Tensor) else None for leaf in leaves}
    # tf.data takes lists of numbers, too, and raises for arrays of different lengths.
    if len(lengths) != 1 or not all(lengths):
        return None
    index = np.arange(start, start + len(leaves[0]))
    joined = with_index(inputs, tf.constant(index)) | {_FINGERPRINT: fingerprint.of_examples(inputs)}
    return (joined, *rest) if rest else joined


def split_element(element: Any) -> tuple[Structure, Any, Any, tuple]:
    """Split an element of an indexed dataset, a batch of it or its spec into `(inputs, index, fingerprint, rest)`."""
    joined, rest = (element[0], tuple(element[1:])) if isinstance(element, tuple) else (element, ())
    inputs, _, index = split_inputs(joined)
    return inputs, index, joined[_FINGERPRINT], rest


def as_element(arguments: tuple) -> Any:
    """Return a dataset's element from the arguments that tf.data passes to functions: it unpacks tuples."""
    return arguments if len(arguments) > 1 else arguments[0]


def input_signature(inputs: Structure) -> list[Any]:
    """Return `[shape, dtype]` of every input of one example, as the manifest stores them."""
    return [[list(spec.shape), spec.dtype.name] for spec in keras.tree.flatten(inputs)]


def with_fingerprint(index: tf.Tensor, element: Any) -> Any:
    """Return the element of an indexed dataset for a single example.

    Args:
        index: Index of the example, a scalar integer tensor.
        element: `x`, `(x, y)` or `(x, y, sample_weight)` of the example.
    """
    inputs, rest = (element[0], tuple(element[1:])) if isinstance(element, tuple) else (element, ())
    joined = {**with_index(inputs, index), _FINGERPRINT: fingerprint.of_example(inputs)}
    return (joined, *rest) if rest else joined


def is_indexed(dataset: tf.data.Dataset) -> bool:
    """Return whether the examples of a dataset carry their index and fingerprint."""
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple) else spec
    return isinstance(inputs, dict) and _FINGERPRINT in inputs
