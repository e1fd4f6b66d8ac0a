"""Numbering examples, so that each is found again wherever it goes."""

import keras
import tensorflow as tf

from keras_distill.cache import fingerprint
from keras_distill.data.batch import split_inputs, with_index

_PRINT = "keras_distill/fingerprint"


def indexed(dataset):
    """A data set whose examples carry their number and fingerprint along.

    From here on they may be shuffled, filtered, repeated and augmented: `cached(...).join` still finds what the teacher
    said of each. A data set that is indexed already stays as it is.

    Args:
        dataset: A `tf.data.Dataset` of single examples, `x`, `(x, y)` or `(x, y, sample_weight)`, always in the same
            order; or such a tuple of arrays.
    """
    if not isinstance(dataset, tf.data.Dataset):
        dataset = tf.data.Dataset.from_tensor_slices(dataset)
    if is_indexed(dataset):
        return dataset
    return dataset.enumerate().map(with_fingerprint, num_parallel_calls=tf.data.AUTOTUNE)


def split_element(element):
    """`(inputs, number, fingerprint, rest)` of an element of an indexed data set, or of its batch or spec."""
    joined, rest = (element[0], tuple(element[1:])) if isinstance(element, tuple) else (element, ())
    inputs, _, index = split_inputs(joined)
    return inputs, index, joined[_PRINT], rest


def input_signature(inputs):
    """Shapes and dtypes of an example's inputs, as a manifest has them."""
    return [[list(spec.shape), spec.dtype.name] for spec in keras.tree.flatten(inputs)]


def with_fingerprint(number, element):
    """An element of an indexed data set, of the single example `element` and its number."""
    inputs, rest = (element[0], tuple(element[1:])) if isinstance(element, tuple) else (element, ())
    joined = {**with_index(inputs, number), _PRINT: fingerprint.of_example(inputs)}
    return (joined, *rest) if rest else joined


def is_indexed(dataset):
    """Whether a data set's examples carry their numbers already."""
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple) else spec
    return isinstance(inputs, dict) and _PRINT in inputs
