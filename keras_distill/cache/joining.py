"""Reading a teacher's activations back to the examples they belong to."""

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import fingerprint, packing, shards
from keras_distill.cache.indexing import indexed, input_signature, is_indexed, split_element
from keras_distill.data.batch import split_inputs, with_activations, with_index
from keras_distill.teachers import CachedTeacher, as_teacher

_AT_ONCE = 1024


def open_cache(directory, teacher=None):
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
        found = fingerprint.of_teacher(as_teacher(teacher))
        if found != manifest["teacher"]:
            raise ValueError(
                f"'{directory}' is of another teacher than the one given: its fingerprint was {manifest['teacher']}, "
                f"this one's is {found}. Label anew, into another directory."
            )
    return TeacherCache(directory, manifest)


class TeacherCache:
    """A teacher's activations on disk.

    Attributes:
        teacher: What a `Distiller` takes.
        taps: `{tap: tf.TensorSpec}` of one example.
        tops: `{tap: how many classes are kept}`, of those of which not all are.
        examples: How many there are, every view counted.
        views: How many of each example.
    """

    def __init__(self, directory, manifest):
        self.directory = directory
        self.examples = sum(shard["examples"] for shard in manifest["shards"])
        self.views = manifest["views"]
        self.taps = {tap: tf.TensorSpec(about["shape"], about["dtype"]) for tap, about in manifest["taps"].items()}
        self.tops = {tap: about["top"] for tap, about in manifest["taps"].items() if about["top"] is not None}
        self._abouts = manifest["taps"]
        self._fields = {
            name: spec for tap, about in self._abouts.items() for name, spec in packing.fields(tap, about).items()
        }
        self.teacher = CachedTeacher(
            {tap: packing.unpacked(tap, about) for tap, about in self._abouts.items()},
            {tap: self.taps[tap].shape[-1] for tap in self.tops},
        )
        self._inputs = manifest["inputs"]
        self._shards = manifest["shards"]
        self._length = manifest["shard_examples"]
        self._arrays = [
            {name: shards.open_array(directory, shard, name) for name in shard["files"]} for shard in manifest["shards"]
        ]

    def join(self, dataset, views=None, seed=None):
        """The data set with the teacher's activations, for `fit`.

        Faster behind `batch` than before it: one reading serves all of a batch.

        Args:
            dataset: That which was labelled, example by example in the same order; or what became of it `indexed`,
                shuffled, filtered, augmented and batched.
            views: The `Views` that the data set was labelled with; each example is then one of its views, another in
                every epoch. The data set must not be batched yet.
            seed: Which views are drawn; None for others in every run.

        Returns:
            A `tf.data.Dataset`.

        Raises:
            ValueError: Here, or as `tf.errors.InvalidArgumentError` while it is read, if an example is not the one that
                was labelled.
        """
        if not is_indexed(dataset):
            dataset = self._indexed(dataset)
        count = 1 if views is None else views.count
        if count != self.views:
            raise ValueError(
                f"'{self.directory}' was labelled in {self.views} views of each example. Received: views={views}."
            )
        if views is not None:
            if split_element(dataset.element_spec)[1].shape.rank:
                raise ValueError("Views are made of single examples. Join first, then batch.")
            dataset = views.one_of(dataset, seed)
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
        held = keras.tree.map_structure(
            lambda spec: np.empty((count, *spec.shape[1:]), spec.dtype.as_numpy_dtype), self.teacher.stored
        )
        for number, joined in enumerate(self.join(indexed(inputs).batch(_AT_ONCE))):
            rows = slice(number * _AT_ONCE, (number + 1) * _AT_ONCE)
            keras.tree.map_structure(
                lambda to, x, rows=rows: np.copyto(to[rows], x.numpy()), held, split_inputs(joined)[1]
            )
        return with_activations(inputs, held)

    def verify(self, verbose=0):
        """Reads all that is stored, and compares it with the checksums that were taken when it was written.

        Args:
            verbose: 1 shows a progress bar.

        Raises:
            ValueError: Naming the file that has changed.
        """
        bar = keras.utils.Progbar(len(self._shards), unit_name="shard", verbose=verbose)
        for shard in self._shards:
            shards.check_sums(self.directory, shard)
            bar.add(1)

    def _indexed(self, dataset):
        dataset = indexed(dataset)
        found = input_signature(split_element(dataset.element_spec)[0])
        if found != self._inputs:
            raise ValueError(
                f"The examples of the data set are {found}, but those labelled in '{self.directory}' {self._inputs}. "
                "Index before the data set is batched or changed: `stored.join(indexed(dataset).batch(128))`."
            )
        return dataset

    def _joined(self, *element):
        element = element if len(element) > 1 else element[0]
        inputs, index, prints, rest = split_element(element)
        dtypes = [_stored_dtype(spec.dtype) for spec in self._fields.values()]
        found = tf.numpy_function(self._rows, [index, prints], dtypes, stateful=False)
        tensors = {}
        for (name, spec), tensor in zip(self._fields.items(), found):
            tensor.set_shape((*index.shape, *spec.shape))
            tensors[name] = tf.bitcast(tensor, tf.bfloat16) if spec.dtype == tf.bfloat16 else tensor
        activations = {tap: packing.unpack(tap, tensors, about) for tap, about in self._abouts.items()}
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
        wrong = np.flatnonzero(stored != prints.reshape(-1).astype(stored.dtype))
        if len(wrong):
            raise ValueError(
                f"Example {flat[wrong[0]]} is not the one that the teacher was asked about in '{self.directory}'. Was "
                "the data set shuffled, filtered or changed before it was indexed? Index it first, with "
                "`indexed(dataset)`, or label it anew."
            )
        return [self._gather(name, flat).reshape(*index.shape, *spec.shape) for name, spec in self._fields.items()]

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
