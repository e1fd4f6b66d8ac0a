"""Devices that share a step under `tf.distribute`: each sees a share of the batch, and all make one update."""

import keras
import tensorflow as tf
from keras import ops


def count():
    """How many devices share a step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def total(value):
    """The sum of a tensor over all replicas, inside a step; no gradient passes.

    Args:
        value: Of the same shape on all replicas.
    """
    value = ops.stop_gradient(ops.convert_to_tensor(value))
    context = tf.distribute.get_replica_context()
    # There is none where Keras looks for shapes alone, before the first step.
    if count() == 1 or context is None:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def gathered(structure):
    """The examples of all replicas, in their order, inside a step; the gradient goes back to where each came from.

    Args:
        structure: Of tensors of shape `[batch, ...]`, or None.
    """
    if count() == 1:
        return structure
    gather = tf.distribute.get_replica_context().all_gather
    return keras.tree.map_structure(lambda tensor: None if tensor is None else gather(tensor, axis=0), structure)


def own(values, examples):
    """This replica's among the values of all replicas' examples.

    Args:
        values: Shape `[all examples]`.
        examples: How many are this replica's.
    """
    if count() == 1:
        return values
    examples = tf.reshape(examples, (1,))
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    start = tf.reduce_sum(gathered(examples)[:number])
    return values[start : start + examples[0]]
