"""Datasets whose order is a function of the seed and the epoch."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.types import Structure


class DataOrder:
    """Datasets of a run that can be resumed at any step of any epoch.

    Args:
        seed: Integer >= 0. The order of an epoch depends on it and on the number of the epoch alone.

    Attributes:
        start: `(epoch, step)` at which the next pass over the dataset starts. The owner sets it before each epoch.
        signature: Number of steps and element types of the last dataset, as a dictionary. None before the first.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.start = (0, 0)
        self.signature: dict[str, Any] | None = None
        self._passes = set()

    def epochs(self, make: Callable[[tf.Tensor], tf.data.Dataset]) -> tf.data.Dataset:
        """Return a dataset of one epoch whose order differs in each epoch, but is the same in each run.

        Args:
            make: Function of a seed that returns the finite, batched dataset of one epoch.

        Raises:
            ValueError: If the dataset of an epoch is infinite.
        """
        example = make(tf.constant(_epoch_seed(self.seed, 0)))
        steps = int(example.cardinality())
        if steps == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`make` must return a finite dataset. Return `dataset.take(steps)`.")
        steps = None if steps == tf.data.UNKNOWN_CARDINALITY else steps
        self.signature = {"steps": steps, "elements": str(example.element_spec)}

        def start():
            self._passes.add(self.start)
            epoch, step = self.start
            return np.array([_epoch_seed(self.seed, epoch), step], "int64")

        def read_start(_):
            return tf.ensure_shape(tf.numpy_function(start, [], tf.int64), (2,))

        def one_epoch(start):
            # The order must not depend on the global seed, which other code may set.
            tf.random.set_seed(1)
            seed, step = start[0], start[1]
            remaining = make(seed).skip(step)
            # Keras expects the same number of batches in every epoch. The skipped ones follow, and are not read.
            return remaining if steps is None else remaining.concatenate(make(seed).take(step))

        data = tf.data.Dataset.range(1).map(read_start).flat_map(one_epoch)
        if steps is not None:
            data = data.apply(tf.data.experimental.assert_cardinality(steps))
        options = tf.data.Options()
        # Sharding by files would send all batches to the first worker, since there is a single source element.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return data.with_options(options).prefetch(tf.data.AUTOTUNE)

    def batches(self, data: Structure, batch_size: int, shuffle: bool) -> tf.data.Dataset:
        """Return `epochs` of batches of arrays.

        Args:
            data: Structure of arrays of equal length and None.
            batch_size: Examples per batch. The last batch may be smaller.
            shuffle: Whether to shuffle the examples, in a different order for each epoch.

        Raises:
            ValueError: If the arrays differ in length.
        """
        return self.epochs(array_batches(data, batch_size, shuffle))

    def reset(self) -> None:
        """Clear the record of earlier passes over the dataset, at the beginning of `fit`."""
        self._passes.clear()

    def check_steps(self, steps: int | None) -> None:
        """Raise ValueError if the steps per epoch of `fit` are not those of the dataset."""
        if self.signature is not None and steps != self.signature["steps"]:
            raise ValueError(_MISUSE)

    def check_pass(self) -> None:
        """Raise ValueError if the current step got its data from another dataset or another epoch."""
        if self.signature is not None and self.start not in self._passes:
            raise ValueError(_MISUSE)


def array_batches(data: Structure, batch_size: int, shuffle: bool = True) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Return a function of a seed that returns the batches of one epoch of arrays.

    Args:
        data: Structure of arrays of equal length and None.
        batch_size: Examples per batch. The last batch may be smaller.
        shuffle: Whether to shuffle the examples by the seed. Defaults to True.

    Raises:
        ValueError: If the arrays differ in length.
    """
    # On the CPU: the whole arrays need not fit into the memory of an accelerator.
    with tf.device("CPU:0"):
        data = keras.tree.map_structure(_to_tensor, keras.tree.lists_to_tuples(data))
    lengths = {len(tensor) for tensor in keras.tree.flatten(data) if tensor is not None}
    if len(lengths) != 1:
        raise ValueError(f"The arrays must have the same length. Received lengths: {sorted(lengths)}")
    (length,) = lengths

    def gather(index, seed):
        if shuffle:
            seed = tf.stack([seed, 0])
            index = tf.random.experimental.index_shuffle(index, seed, tf.constant(length - 1, "int64"))
        return keras.tree.map_structure(lambda tensor: None if tensor is None else tf.gather(tensor, index), data)

    def make(seed):
        index = tf.data.Dataset.range(length).batch(batch_size)
        return index.map(lambda index: gather(index, seed), num_parallel_calls=tf.data.AUTOTUNE)

    return make


_MISUSE = (
    "A dataset made by `Backup.batches` or `Backup.epochs` is one epoch. Pass it to `fit` with that Backup among the "
    "callbacks and without `steps_per_epoch`. For shorter epochs, let the `make` of `Backup.epochs` return "
    "`dataset.take(steps)`."
)


def _epoch_seed(seed, epoch):
    """Return the seed of an epoch, 63 bits. NumPy guarantees that a `SeedSequence` never changes between versions."""
    return np.int64(np.random.SeedSequence([seed, epoch]).generate_state(1, "uint64")[0] >> np.uint64(1))


def _to_tensor(array):
    if array is None:
        return None
    tensor = tf.convert_to_tensor(array)
    # `fit` casts floating-point arrays in the same way.
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor
