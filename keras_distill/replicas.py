"""Devices that share a step under `tf.distribute`: each sees a share of the batch, and all make one update."""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops


def count():
    """How many devices share a step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def workers(strategy):
    """How many processes, each with devices of its own, share a step.

    Args:
        strategy: A `tf.distribute.Strategy`.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


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
    context = tf.distribute.get_replica_context()
    devices = context.strategy.extended.worker_devices

    def gather(tensor):
        # A worker with a single device gathers only what is known to be there.
        with tf.device(devices[0]) if len(devices) == 1 else contextlib.nullcontext():
            return context.all_gather(tf.identity(tensor), axis=0)

    return keras.tree.map_structure(lambda tensor: None if tensor is None else gather(tensor), structure)


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


def writes(strategy):
    """Whether this process is the one among the workers that writes what they share."""
    if workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    return resolver.task_type == "chief" or (resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs)


def said(strategy, text):
    """What each worker says, in their order; all must ask at once.

    Args:
        strategy: A `tf.distribute.Strategy`.
        text: What this one says.
    """
    if workers(strategy) == 1:
        return [text]
    letters = tf.io.decode_raw(tf.constant(text), tf.uint8)

    def gather(values):
        return tf.function(lambda: strategy.run(lambda: gathered(values)))()

    # A worker's devices all say the same.
    devices = len(strategy.extended.worker_devices)
    first = strategy.experimental_local_results
    lengths = first(gather(tf.reshape(tf.size(letters), (1,))))[0].numpy()
    parts = np.split(first(gather(tf.cast(letters, tf.int32)))[0].numpy(), np.cumsum(lengths)[:-1])
    return [bytes(part.astype("uint8")).decode() for part in parts[::devices]]


def any_says(strategy, flag):
    """Whether the flag is up on any worker; all must ask at once."""
    if workers(strategy) == 1:
        return flag
    return bool(_sum_over_workers(strategy)(tf.constant(int(flag))) > 0)


def assign(strategy, variable, value):
    """Assigns a value, as it was read, to a Keras variable of this strategy.

    Where reading sums up the replicas' values, as for metrics, the first is given all of it: shares would be rounded.
    """
    if strategy.num_replicas_in_sync == 1 or (variable.synchronization, variable.aggregation) != ("on_read", "sum"):
        variable.assign(value)
        return

    def give():
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        variable.assign(tf.where(first, tf.convert_to_tensor(value), tf.zeros_like(value)))

    tf.function(strategy.run)(give)


@functools.cache
def _sum_over_workers(strategy):
    # Made once: it is asked for after every step.
    return tf.function(lambda number: strategy.reduce("SUM", strategy.run(lambda: number), axis=None))
