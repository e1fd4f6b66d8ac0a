"""Reading a teacher's activations back to the examples they belong to."""

import keras
import numpy as np
import tensorflow as tf

from keras_distill.batch import split, with_activations, with_index
from keras_distill.cache import fingerprint, shards
from keras_distill.cache.indexing import indexed, parts
from keras_distill.teachers import CachedTeacher, as_teacher

_AT_ONCE = 1024


def cached(directory, teacher=None):
    """The activations that `label` wrote.

    Args:
        directory: Where they are.
        teacher: The teacher, to be sure that they are of this one; not needed otherwise.

    Returns:
        A `Cached`.

    Raises:
        ValueError: If there is no finished cache, if it is damaged, or of another teacher.
    """
    manifest = shards.read_manifest(directory)
    if manifest is None or not manifest["complete"]:
        state = "no cache" if manifest is None else "a cache that was not finished"
        raise ValueError(f"'{directory}' holds {state}. Run `label(teacher, dataset, '{directory}')`, which continues.")
    if teacher is not None:
        found = fingerprint.of_weights(as_teacher(teacher).weights)
        if found != manifest["teacher"]:
            raise ValueError(
                f"'{directory}' is of another teacher than the one given: its weights were {manifest['teacher']}, "
                f"these are {found}. Label anew, into another directory."
            )
    return Cached(directory, manifest)


class Cached:
    """A teacher's activations on disk.

    Attributes:
        teacher: What a `Distiller` takes.
        taps: `{tap: tf.TensorSpec}` of one example.
        examples: How many there are.
    """

    def __init__(self, directory, manifest):
        self.directory = directory
        self.examples = sum(shard["examples"] for shard in manifest["shards"])
        self.taps = {tap: tf.TensorSpec(about["shape"], about["dtype"]) for tap, about in manifest["taps"].items()}
        self.teacher = CachedTeacher({tap: tf.TensorSpec((None, *s.shape), s.dtype) for tap, s in self.taps.items()})
        self._shards = manifest["shards"]
        self._length = manifest["shard_examples"]
        self._arrays = [
            {name: shards.open_array(directory, shard, name) for name in shard["files"]} for shard in manifest["shards"]
        ]

    def join(self, dataset):
        """The data set with the teacher's activations, for `fit`.

        Faster behind `batch` than before it: one reading serves all of a batch.

        Args:
            dataset: That which was labelled, in the same order; or what became of it `indexed`, shuffled, filtered,
                augmented or batched.

        Returns:
            A `tf.data.Dataset`.

        Raises:
            ValueError: Here, or as `tf.errors.InvalidArgumentError` while it is read, if an example is not the one that
                was labelled.
        """
        dataset = indexed(dataset)
        return dataset.map(self._joined, num_parallel_calls=tf.data.AUTOTUNE)

    def load(self, inputs):
        """The examples with the teacher's activations as arrays, for `fit(stored.load(x), y)`, where memory holds all.

        Args:
            inputs: Structure of arrays: the examples that were labelled, or the first of them, in the same order.

        Returns:
            What `with_activations` gives.

        Raises:
            tf.errors.InvalidArgumentError: If an example is not the one that was labelled.
        """
        count = len(keras.tree.flatten(inputs)[0])
        held = {tap: np.empty((count, *spec.shape), spec.dtype.as_numpy_dtype) for tap, spec in self.taps.items()}
        for start, joined in enumerate(self.join(indexed(inputs).batch(_AT_ONCE))):
            for tap, activation in split(joined)[1].items():
                held[tap][start * _AT_ONCE :][: len(activation)] = activation.numpy()
        return with_activations(inputs, held)

    def verify(self):
        """Reads all that is stored, and compares it with the checksums that were taken when it was written.

        Raises:
            ValueError: Naming the file that has changed.
        """
        for shard in self._shards:
            shards.check_sums(self.directory, shard)

    def _joined(self, *element):
        element = element if len(element) > 1 else element[0]
        inputs, index, prints, rest = parts(element)
        names = list(self.taps)
        dtypes = [_stored_dtype(self.taps[name].dtype) for name in names]
        found = tf.numpy_function(self._rows, [index, prints], dtypes, stateful=False)
        activations = {}
        for name, activation in zip(names, found):
            activation.set_shape((*index.shape, *self.taps[name].shape))
            bits = self.taps[name].dtype == tf.bfloat16
            activations[name] = tf.bitcast(activation, tf.bfloat16) if bits else activation
        joined = with_index(with_activations(inputs, activations), index)
        return (joined, *rest) if rest else joined

    def _rows(self, index, prints):
        """The rows of these examples; NumPy in and out, a scalar for one example or a vector for a batch."""
        index, prints = np.asarray(index), np.asarray(prints)
        flat = index.reshape(-1)
        strange = flat[(flat < 0) | (flat >= self.examples)]
        if len(strange):
            raise ValueError(f"'{self.directory}' holds {self.examples} examples. Asked for was number {strange[0]}.")
        stored = self._gather(shards.EXAMPLES, flat)
        wrong = np.flatnonzero(stored != prints.reshape(-1))
        if len(wrong):
            raise ValueError(
                f"Example {flat[wrong[0]]} is not the one that the teacher was asked about in '{self.directory}'. Was "
                "the data set shuffled, filtered or changed before it was indexed? Index it first, with "
                "`indexed(dataset)`, or label it anew."
            )
        return [self._gather(name, flat).reshape(*index.shape, *self.taps[name].shape) for name in self.taps]

    def _gather(self, name, index):
        if len(self._arrays) == 1:
            return self._arrays[0][name][index]
        shard, row = np.divmod(index, self._length)
        found = np.empty((len(index), *self._arrays[0][name].shape[1:]), self._arrays[0][name].dtype)
        for number in np.unique(shard):
            here = shard == number
            found[here] = self._arrays[number][name][row[here]]
        return found


def _stored_dtype(dtype):
    return tf.uint16 if dtype == tf.bfloat16 else dtype
