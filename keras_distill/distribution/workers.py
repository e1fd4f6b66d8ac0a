"""Communication between the worker processes of `tf.distribute`."""

import functools

import numpy as np
import tensorflow as tf

from keras_distill.distribution import replicas


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Return the number of worker processes of a strategy, each with separate devices.

    Args:
        strategy: Any strategy. Only `MultiWorkerMirroredStrategy` has several workers.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process is the chief worker, the one that writes shared files.

    Args:
        strategy: Any strategy. A single process is the chief.
    """
    if num_workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    return resolver.task_type == "chief" or (resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs)


def all_gather_text(strategy: tf.distribute.Strategy, text: str) -> list[str]:
    """All-gather a string from every worker. Collective: every worker must call it.

    Args:
        strategy: Any strategy.
        text: The string of this worker.

    Returns:
        The strings of all workers, in the order of the workers.
    """
    if num_workers(strategy) == 1:
        return [text]
    # One more character: TensorFlow crashes when every worker gathers an empty tensor.
    encoded = tf.io.decode_raw(tf.constant(text + "\n"), tf.uint8)

    def gather(values):
        return tf.function(lambda: strategy.run(lambda: replicas.all_gather(values)))()

    # All devices of a worker send the same string.
    num_devices = len(strategy.extended.worker_devices)
    local_results = strategy.experimental_local_results
    lengths = local_results(gather(tf.reshape(tf.size(encoded), (1,))))[0].numpy()
    joined = local_results(gather(tf.cast(encoded, tf.int32)))[0].numpy()
    parts = np.split(joined, np.cumsum(lengths)[:-1])
    return [bytes(part.astype("uint8")).decode().removesuffix("\n") for part in parts[::num_devices]]


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Return whether the flag is true on any worker. Collective: every worker must call it.

    Args:
        strategy: Any strategy.
        flag: The flag of this worker.
    """
    if num_workers(strategy) == 1:
        return flag
    return bool(_sum_over_workers(strategy)(tf.constant(int(flag))) > 0)


@functools.cache
def _sum_over_workers(strategy):
    # Cached, since it is called after every step and would be traced again each time.
    return tf.function(lambda number: strategy.reduce("SUM", strategy.run(lambda: number), axis=None))
