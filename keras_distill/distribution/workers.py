"""Processes that train together under `tf.distribute`: which of them writes, and what they tell one another."""

import functools

import numpy as np
import tensorflow as tf

from keras_distill.distribution import replicas


def num_workers(strategy):
    """How many processes, each with devices of its own, share a step.

    Args:
        strategy: A `tf.distribute.Strategy`.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def is_chief(strategy):
    """Whether this process is the one among the workers that writes what they share."""
    if num_workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    return resolver.task_type == "chief" or (resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs)


def all_gather_text(strategy, text):
    """What each worker says, in their order; all must ask at once.

    Args:
        strategy: A `tf.distribute.Strategy`.
        text: What this one says.
    """
    if num_workers(strategy) == 1:
        return [text]
    letters = tf.io.decode_raw(tf.constant(text), tf.uint8)

    def gather(values):
        return tf.function(lambda: strategy.run(lambda: replicas.all_gather(values)))()

    # A worker's devices all say the same.
    devices = len(strategy.extended.worker_devices)
    first = strategy.experimental_local_results
    lengths = first(gather(tf.reshape(tf.size(letters), (1,))))[0].numpy()
    parts = np.split(first(gather(tf.cast(letters, tf.int32)))[0].numpy(), np.cumsum(lengths)[:-1])
    return [bytes(part.astype("uint8")).decode() for part in parts[::devices]]


def any_worker(strategy, flag):
    """Whether the flag is up on any worker; all must ask at once."""
    if num_workers(strategy) == 1:
        return flag
    return bool(_sum_over_workers(strategy)(tf.constant(int(flag))) > 0)


@functools.cache
def _sum_over_workers(strategy):
    # Made once: it is asked for after every step.
    return tf.function(lambda number: strategy.reduce("SUM", strategy.run(lambda: number), axis=None))
