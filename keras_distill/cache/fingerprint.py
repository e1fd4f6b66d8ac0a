"""Fingerprints of teachers and examples."""

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
    hashes = [_hash([_serialized(tf.constant(leaf[part])) for leaf in leaves]) for part in parts]
    return tf.concat([tf.zeros(0, "int64"), *hashes], 0)


def _serialized(batch):
    """Return `tf.io.serialize_tensor` of every example of a batch."""
    first = tf.io.serialize_tensor(batch[0]).numpy()
    rows = batch.numpy().reshape(len(batch), -1)
    size = 0 if batch.dtype == tf.string else rows[0].nbytes
    # Serialized numbers are a header, the same for all examples, and the bytes of the array.
    if size == 0 or first[-size:] != rows[0].tobytes():
        return tf.map_fn(tf.io.serialize_tensor, batch, fn_output_signature=tf.string)
    header, contents = first[:-size], rows.tobytes()
    return tf.constant([header + contents[start : start + size] for start in range(0, len(contents), size)])


def _hash(leaves):
    """Return the hashes of serialized examples; scalars or vectors of one value per example."""
    # The lengths distinguish ("ab", "c") from ("a", "bc").
    lengths = [tf.strings.as_string(tf.strings.length(leaf)) for leaf in leaves]
    return tf.strings.to_hash_bucket_fast(tf.strings.join([*lengths, *leaves], " "), _LARGEST)
