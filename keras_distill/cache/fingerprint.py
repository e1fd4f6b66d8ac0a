"""What tells whether stored activations belong to a teacher, and to an example."""

import hashlib

import keras
import numpy as np
import tensorflow as tf

_LARGEST = 2**63 - 1


def of_teacher(teacher):
    """A digest of a `Teacher`'s weights and of its signature: 32 hexadecimal digits."""
    return of_weights(teacher.weights, teacher.signature)


def of_weights(weights, signature=""):
    """A digest of the values of weights, in their order: 32 hexadecimal digits.

    Names do not count, since Keras numbers them anew in every process.

    Args:
        weights: List of variables.
        signature: What else counts.
    """
    digest = hashlib.sha256(signature.encode())
    for weight in weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:32]


def of_example(inputs):
    """A number that no other example is likely to have, a scalar int64 tensor; the same on every machine.

    Args:
        inputs: Structure of tensors, of one example.
    """
    leaves = [tf.io.serialize_tensor(leaf) for leaf in keras.tree.flatten(inputs)]
    # With their lengths: ("ab", "c") is another example than ("a", "bc").
    lengths = tf.unstack(tf.strings.as_string(tf.strings.length(tf.stack(leaves))), len(leaves))
    return tf.strings.to_hash_bucket_fast(tf.strings.join([*lengths, *leaves], " "), _LARGEST)
