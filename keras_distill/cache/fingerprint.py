"""Fingerprints of teachers and examples."""

import functools
import hashlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_distill.teachers import Teacher
from keras_distill.types import Structure

_LARGEST = 2**63 - 1
_PART = 1024


def of_teacher(teacher: Teacher) -> str:
    """Return a digest of a teacher's weights and signature, 32 hexadecimal digits."""
    return of_weights(teacher.weights, teacher.signature)


def of_weights(weights: Sequence[keras.Variable], signature: str = "") -> str:
    """Return a digest of the values of weights in their order, 32 hexadecimal digits.

    The names of the weights do not enter the digest, since Keras numbers them differently in every process.

    Args:
        weights: List of variables.
        signature: Further text that enters the digest. Defaults to "".
    """
    digest = hashlib.sha256(signature.encode())
    for weight in weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:32]


def of_example(inputs: Structure) -> tf.Tensor:
    """Return a hash of one example's inputs, the same on every machine.

    Args:
        inputs: Structure of tensors of one example.

    Returns:
        Integer from 0 to 2^63 - 2, a scalar int64 tensor.
    """
    return _hash([tf.io.serialize_tensor(leaf) for leaf in keras.tree.flatten(inputs)])


def of_examples(inputs: Structure) -> tf.Tensor:
    """Return `of_example` for every example of arrays in memory, without a graph call for each.

    Args:
        inputs: Structure of arrays or eager tensors of shape `[examples, ...]`.

    Returns:
        Integers from 0 to 2^63 - 2, an int64 tensor of shape `[examples]`.
    """
    leaves = keras.tree.flatten(inputs)
    # Parts, since the serialized examples need about as much memory as the examples.
    parts = [slice(start, start + _PART) for start in range(0, len(leaves[0]), _PART)]
    hashes = [of_batch([tf.constant(leaf[part]) for leaf in leaves]) for part in parts]
    return tf.concat([tf.zeros(0, "int64"), *hashes], 0)


def of_batch(inputs: Structure) -> tf.Tensor:
    """Return `of_example` for every example of a batch.

    Args:
        inputs: Structure of tensors of shape `[batch, ...]`, eager ones or those of a dataset's graph.

    Returns:
        Integers from 0 to 2^63 - 2, an int64 tensor of shape `[batch]`.
    """
    return _hash([_serialized(leaf) for leaf in keras.tree.flatten(inputs)])


def _serialized(batch):
    """Return `tf.io.serialize_tensor` of every example of a batch."""
    header = _header(batch.dtype, tuple(batch.shape[1:]))
    if header is None:
        return tf.map_fn(tf.io.serialize_tensor, batch, fn_output_signature=tf.string)

    def with_header(rows):
        contents, size = rows.tobytes(), rows[:1].nbytes
        return np.array([header + contents[start : start + size] for start in range(0, len(contents), size)], object)

    rows = tf.numpy_function(with_header, [batch], tf.string, stateful=False)
    return tf.ensure_shape(rows, batch.shape[:1])


@functools.cache
def _header(dtype, shape):
    """Return what `tf.io.serialize_tensor` writes before the bytes of an array; None unless it ends with these."""
    if dtype == tf.string or None in shape or 0 in shape:
        return None
    with tf.init_scope():
        ones = tf.ones(shape, dtype)
        content, serialized = ones.numpy().tobytes(), tf.io.serialize_tensor(ones).numpy()
    return serialized.removesuffix(content) if serialized.endswith(content) else None


def _hash(leaves):
    """Return the hashes of serialized examples; scalars or vectors of one value per example."""
    # The lengths distinguish ("ab", "c") from ("a", "bc").
    lengths = [tf.strings.as_string(tf.strings.length(leaf)) for leaf in leaves]
    return tf.strings.to_hash_bucket_fast(tf.strings.join([*lengths, *leaves], " "), _LARGEST)
