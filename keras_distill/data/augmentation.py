"""New examples, made from given ones, for a teacher to label."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.utils.arguments import check_integer

# Examples of a dataset that are mixed with one another.
_CHUNK = 1024


class Augmentation:
    """Function that makes one new example from each given one. Abstract.

    Any function with the same arguments can be used in its place.

    Attributes:
        mixes_labels: Whether labels are mixtures of two, so that class labels must be one-hot. Defaults to False.

    Example: an augmentation of one's own, noise

    >>> from keras_distill.data import Augmentation
    >>> class Noise(Augmentation):
    ...     def __call__(self, inputs, labels, generator):
    ...         return inputs + generator.normal(0, 0.1, inputs.shape).astype(inputs.dtype), labels
    """

    mixes_labels = False

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        """Return new inputs, and the labels that they have without a teacher.

        Args:
            inputs: Array of shape `[examples, ...]`.
            labels: Labels of the examples, a structure of arrays; or None.
            generator: Source of all random numbers.

        Raises:
            ValueError: If the augmentation cannot be applied to such inputs or labels.
        """
        raise NotImplementedError


def augment(
    augmentation: Callable[..., Any], inputs: Any, labels: Any = None, size: int = 10, seed: int = 0
) -> tuple[Any, Any]:
    """Make new examples from arrays. The same arguments give the same examples.

    Args:
        augmentation: An `Augmentation`, or a function with the same arguments.
        inputs: Array of shape `[examples, ...]`.
        labels: Labels of the examples. Defaults to None.
        size: Number of new examples per given one, >= 1. Defaults to 10.
        seed: Seed, an integer >= 0. Defaults to 0.

    Returns:
        `(inputs, labels)` of `size * examples` new examples. The labels are those that an example has without a
        teacher; None without labels.

    Raises:
        ValueError: If the augmentation cannot be applied to such inputs or labels, or returns another number of
            examples, another shape or another dtype.

    Example:

    >>> from keras_distill.data import Mixup, augment
    >>> new_x, _ = augment(Mixup(), x, size=2)
    >>> new_x.shape == (2 * len(x), *x.shape[1:])
    True
    """
    check_integer(size, "size"), check_integer(seed, "seed", at_least=0)
    inputs, labels = keras.tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf), (inputs, labels))
    rounds = [_checked(augmentation, inputs, labels, np.random.default_rng([seed, number])) for number in range(size)]
    return keras.tree.map_structure(lambda *arrays: None if arrays[0] is None else np.concatenate(arrays), *rounds)


def augment_dataset(
    augmentation: Callable[..., Any], dataset: tf.data.Dataset, size: int = 10, seed: int = 0
) -> tf.data.Dataset:
    """Make new examples from a dataset, which are made again whenever it is read.

    An augmentation sees 1,024 consecutive examples at once.

    Args:
        augmentation: As for `augment`.
        dataset: Dataset of single examples `x`, `(x, y)` or `(x, y, sample_weight)`, always in the same order. Weights
            are left out.
        size: As for `augment`. Defaults to 10.
        seed: As for `augment`. Defaults to 0.

    Returns:
        A dataset of single examples `x` or `(x, y)`, always in the same order.

    Raises:
        ValueError: As `augment` does; when the dataset is read.
    """
    check_integer(size, "size"), check_integer(seed, "seed", at_least=0)
    if isinstance(dataset.element_spec, tuple):
        dataset = dataset.map(lambda inputs, labels, *weights: (inputs, labels), tf.data.AUTOTUNE)
    spec = dataset.element_spec
    leaves = [tf.TensorSpec((None, *leaf.shape), leaf.dtype) for leaf in keras.tree.flatten(spec)]

    def new(number, chunk, *arrays):
        inputs, labels = _pair(keras.tree.pack_sequence_as(spec, list(arrays)))
        made = _checked(augmentation, inputs, labels, np.random.default_rng([seed, number, chunk]))
        return [np.asarray(array) for array in keras.tree.flatten(made) if array is not None]

    def one_round(number):
        def make(chunk, *element):
            types = [leaf.dtype for leaf in leaves]
            arrays = tf.numpy_function(new, [number, chunk, *keras.tree.flatten(element)], types)
            for array, leaf in zip(arrays, leaves):
                array.set_shape(leaf.shape)
            return keras.tree.pack_sequence_as(spec, list(arrays))

        chunks = dataset.batch(_CHUNK).enumerate()
        return chunks.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()

    made = tf.data.Dataset.range(size).flat_map(one_round)
    known = int(dataset.cardinality())
    return made.apply(tf.data.experimental.assert_cardinality(size * known)) if known >= 0 else made


def like(array: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return an array in the dtype of another; real numbers are rounded for a dtype of integers.

    Args:
        array: Real numbers.
        reference: Array whose dtype is taken.
    """
    is_integer = np.issubdtype(reference.dtype, np.integer)
    return (np.rint(array) if is_integer else array).astype(reference.dtype)


def _pair(element):
    return (element[0], element[1]) if isinstance(element, tuple) else (element, None)


def _checked(augmentation, inputs, labels, generator):
    made = augmentation(inputs, labels, generator)
    if not isinstance(made, tuple) or len(made) != 2:
        raise ValueError(f"{augmentation!r} must return `(inputs, labels)`. Received: a {type(made).__name__}")
    for name, before, after in zip(("inputs", "labels"), (inputs, labels), made):
        expected, received = _signature(before), _signature(after)
        if expected != received:
            raise ValueError(
                f"{augmentation!r} must return {name} like those that it gets, {expected}. Received: {received}"
            )
    return made


def _signature(structure):
    arrays = [np.asarray(leaf) for leaf in keras.tree.flatten(structure) if leaf is not None]
    return [(array.shape, "text" if array.dtype.kind in "OUS" else array.dtype.name) for array in arrays]
