"""Fingerprints of teachers and examples."""

import hashlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_distill.teachers import Teacher
from keras_distill.types import Structure

_LARGEST = 2**63 - 1


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
    leaves = [tf.io.serialize_tensor(leaf) for leaf in keras.tree.flatten(inputs)]
    # The lengths distinguish ("ab", "c") from ("a", "bc").
    lengths = tf.unstack(tf.strings.as_string(tf.strings.length(tf.stack(leaves))), len(leaves))
    return tf.strings.to_hash_bucket_fast(tf.strings.join([*lengths, *leaves], " "), _LARGEST)
