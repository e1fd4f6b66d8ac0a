"""Examples of one split: arrays in memory, or a `tf.data.Dataset`."""

import functools
import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import TeacherCache, indexed
from keras_distill.cache.indexing import as_element, split_element
from keras_distill.callbacks.backup import Backup
from keras_distill.types import Structure

# Memory of the shuffle buffer; datasets that fit into it are shuffled uniformly.
_SHUFFLE_BYTES = 2**30


def as_examples(source: Any) -> "Examples":
    """Return examples as an object that experiments read.

    Args:
        source: Inputs `x`, or `(x, y)` or `(x, y, sample_weight)`, of arrays or structures of arrays with one row per
            example; or a `tf.data.Dataset` of such single examples, always in the same order.

    Raises:
        ValueError: If the source is empty, or arrays differ in length.
    """
    if isinstance(source, Examples):
        return source
    if isinstance(source, tf.data.Dataset):
        return StreamedExamples(source)
    return ArrayExamples(source)


class Examples:
    """Examples of a split. Abstract.

    Attributes:
        rows: Indices of the examples in the whole source, shape `[examples]`. An index may occur several times.
        digest: SHA-256 digest of the whole source, 32 hexadecimal digits.
        inputs_digest: The same for its inputs alone.
    """

    rows: np.ndarray
    digest: str
    inputs_digest: str

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> Any:
        """Return the labels, a structure of arrays; None without labels."""
        raise NotImplementedError

    def inputs(self, indices: Any) -> Structure:
        """Return the inputs of some examples as arrays.

        Args:
            indices: Indices into these examples.
        """
        raise NotImplementedError

    def select(self, indices: Any) -> "Examples":
        """Return some of the examples. Those of a stream come in increasing order of their rows.

        Args:
            indices: Indices into these examples; an index may occur several times.
        """
        raise NotImplementedError

    def with_labels(self, labels: Any) -> "Examples":
        """Return the same examples with other labels.

        Args:
            labels: Structure of arrays, one row per example.
        """
        raise NotImplementedError

    def whole(self) -> Any:
        """Return the whole source in the form that `cache.label` takes."""
        raise NotImplementedError

    def training_batches(self, backup: Backup, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        """Return batches in an order that the `Backup` determines.

        Args:
            backup: The `Backup` of the training.
            batch_size: Examples per batch.
            stored: Cache of the teacher's outputs for `whole()`, to join. Defaults to None.
        """
        raise NotImplementedError

    def shuffled_batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        """Return batches in a fixed random order.

        Args:
            batch_size: As for `training_batches`.
            stored: As for `training_batches`. Defaults to None.
        """
        raise NotImplementedError

    def batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        """Return batches in the order of the rows.

        Args:
            batch_size: As for `training_batches`.
            stored: As for `training_batches`. Defaults to None.
        """
        raise NotImplementedError

    def split(self, fraction: float) -> tuple["Examples", "Examples"]:
        """Split off a random fraction. The choice does not depend on any seed.

        Args:
            fraction: Part of the examples that is split off, in (0, 1).

        Returns:
            The remaining examples, and the fraction.

        Raises:
            ValueError: If one of both would be empty.
        """
        count = round(fraction * len(self))
        if not 0 < count < len(self):
            raise ValueError(
                f"There are {len(self)} examples, of which a fraction of {fraction:g} leaves none for one of the "
                "splits. Choose another fraction, or pass the splits."
            )
        chosen = np.zeros(len(self), bool)
        chosen[np.random.default_rng(0).permutation(len(self))[:count]] = True
        return self.select(np.flatnonzero(~chosen)), self.select(np.flatnonzero(chosen))


class ArrayExamples(Examples):
    """Examples in memory.

    Args:
        arrays: `x`, `(x, y)` or `(x, y, sample_weight)`.
        rows: Indices of the examples. Defaults to None: all.

    Raises:
        ValueError: If the source is empty, or arrays differ in length.
    """

    def __init__(self, arrays: Any, rows: np.ndarray | None = None):
        arrays = arrays if isinstance(arrays, tuple) else (arrays,)
        self._arrays = keras.tree.map_structure(np.asarray, arrays)
        lengths = {len(array) for array in keras.tree.flatten(self._arrays)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"Inputs and labels must be arrays with the same number of rows, at least one. Received: {lengths} rows"
            )
        self.rows = np.arange(lengths.pop()) if rows is None else rows

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.inputs_digest}{_digest(self._arrays[1:])}".encode()).hexdigest()[:32]

    @functools.cached_property
    def inputs_digest(self) -> str:
        return _digest(self._arrays[0])

    def labels(self) -> Any:
        return self._take(self._arrays[1], self.rows) if len(self._arrays) > 1 else None

    def inputs(self, indices: Any) -> Structure:
        return self._take(self._arrays[0], self.rows[np.asarray(indices, int)])

    def select(self, indices: Any) -> "ArrayExamples":
        return ArrayExamples(self._arrays, self.rows[indices])

    def with_labels(self, labels: Any) -> "ArrayExamples":
        def spread(array, new):
            # Nothing reads the other rows.
            whole = np.zeros((len(array), *np.shape(new)[1:]), np.asarray(new).dtype)
            whole[self.rows] = new
            return whole

        return ArrayExamples(
            (self._arrays[0], keras.tree.map_structure(spread, self._arrays[1], labels), *self._arrays[2:]), self.rows
        )

    def whole(self) -> Any:
        return (self._arrays[0],)

    def training_batches(self, backup: Backup, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return backup.batches(self._rows_with(stored), batch_size)

    def shuffled_batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return self.select(np.random.default_rng(0).permutation(len(self))).batches(batch_size, stored)

    def batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(self._rows_with(stored)).batch(batch_size)

    def _rows_with(self, stored):
        inputs = self._arrays[0] if stored is None else stored.load(self._arrays[0])
        return self._take((inputs, *self._arrays[1:]), self.rows)

    @staticmethod
    def _take(structure, rows):
        return keras.tree.map_structure(lambda array: array[rows], structure)


class StreamedExamples(Examples):
    """Examples of a `tf.data.Dataset`, which are read again in every epoch.

    Args:
        dataset: Dataset of single examples, always in the same order.

    Raises:
        ValueError: If the dataset is empty.
    """

    def __init__(self, dataset: tf.data.Dataset):
        self._whole = indexed(dataset)
        count = int(dataset.cardinality())
        count = count if count >= 0 else int(dataset.reduce(np.int64(0), lambda count, *element: count + 1))
        if not count:
            raise ValueError("The dataset holds no examples.")
        self.rows = np.arange(count)
        self._labels: Any = None

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.inputs_digest}{_digest(self.labels())}".encode()).hexdigest()[:32]

    @functools.cached_property
    def inputs_digest(self) -> str:
        # Reading all inputs may take as long as an epoch. The cache compares every example with its fingerprint.
        spec = self._whole.element_spec
        text = f"{spec[0] if isinstance(spec, tuple) else spec}{self._whole.cardinality()}"
        for element in self._whole.take(8).as_numpy_iterator():
            text += str(split_element(element)[2])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def labels(self) -> Any:
        if not isinstance(self._whole.element_spec, tuple):
            return None
        if self._labels is None:
            batches = [split_element(element)[3][0] for element in self._whole.batch(256).as_numpy_iterator()]
            self._labels = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *batches)
        return keras.tree.map_structure(lambda array: array[self.rows], self._labels)

    def inputs(self, indices: Any) -> Structure:
        rows = self.rows[np.asarray(indices, int)]
        unique, positions = np.unique(rows, return_inverse=True)
        found = self._filtered(unique).map(lambda *element: split_element(as_element(element))[0])
        listed = list(found.take(len(unique)).as_numpy_iterator())
        return keras.tree.map_structure(lambda *values: np.stack(values)[positions], *listed)

    def select(self, indices: Any) -> "StreamedExamples":
        return self._copy(np.sort(self.rows[indices]), self._labels)

    def with_labels(self, labels: Any) -> "StreamedExamples":
        count = int(self.rows.max()) + 1

        def spread(new):
            whole = np.zeros((count, *new.shape[1:]), new.dtype)
            whole[self.rows] = new
            return whole

        spread_labels = keras.tree.map_structure(spread, labels)
        tensors = keras.tree.map_structure(tf.constant, spread_labels)

        def replace(inputs, _, *rest):
            index = tf.minimum(split_element((inputs,))[1], count - 1)
            return inputs, keras.tree.map_structure(lambda tensor: tensor[index], tensors), *rest

        copy = self._copy(self.rows, spread_labels)
        copy._whole = self._whole.map(replace, num_parallel_calls=tf.data.AUTOTUNE)
        return copy

    def whole(self) -> Any:
        return self._whole

    def training_batches(self, backup: Backup, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return backup.epochs(lambda seed: self._shuffled(batch_size, stored, seed))

    def shuffled_batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return self._shuffled(batch_size, stored, 0)

    def batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return self._batched(self._selected(), batch_size, stored)

    def _shuffled(self, batch_size, stored, seed):
        buffer = min(len(self), max(_SHUFFLE_BYTES // _num_bytes(self._whole.element_spec), 1))
        return self._batched(self._selected().shuffle(buffer, seed=seed), batch_size, stored)

    def _copy(self, rows, labels):
        copy = StreamedExamples.__new__(StreamedExamples)
        copy._whole, copy.rows, copy._labels, copy.inputs_digest = self._whole, rows, labels, self.inputs_digest
        return copy

    def _selected(self):
        unique = np.unique(self.rows)
        selected = self._filtered(unique)
        if len(unique) < len(self.rows):
            selected = selected.repeat().take(len(self.rows))
        return selected.apply(tf.data.experimental.assert_cardinality(len(self.rows)))

    def _filtered(self, rows):
        chosen = np.zeros(int(rows.max()) + 2, bool)
        chosen[rows] = True
        mask = tf.constant(chosen)

        def is_chosen(*element):
            # Everything after the last chosen row shares the last entry of the mask, False.
            return mask[tf.minimum(split_element(as_element(element))[1], len(chosen) - 1)]

        return self._whole.filter(is_chosen)

    @staticmethod
    def _batched(dataset, batch_size, stored):
        dataset = dataset.batch(batch_size)
        dataset = dataset.map(_without_index, tf.data.AUTOTUNE) if stored is None else stored.join(dataset)
        return dataset.prefetch(tf.data.AUTOTUNE)


def _digest(structure):
    digest = hashlib.sha256()
    for array in keras.tree.flatten(structure):
        # An array of Python strings holds their addresses.
        array = array.astype(str) if array.dtype == object else array
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _without_index(*element: Any) -> Any:
    """Return inputs and labels of an element of an indexed dataset."""
    inputs, _, _, rest = split_element(as_element(element))
    return (inputs, *rest) if rest else inputs


def _num_bytes(spec: Any) -> int:
    """Return the approximate size of an example; 1 MiB is assumed for tensors of unknown shape, such as images."""
    return sum(
        leaf.shape.num_elements() * leaf.dtype.size if leaf.shape.is_fully_defined() and leaf.dtype.size else 2**20
        for leaf in keras.tree.flatten(spec)
    )


def describe_non_finite(examples: Examples) -> str:
    """Return a sentence that names the first example with NaN or infinity in its inputs, or "".

    Args:
        examples: The examples.
    """
    start = 0
    for batch in examples.batches(256):
        for leaf in keras.tree.flatten(batch[0] if isinstance(batch, tuple) else batch):
            if leaf.dtype.is_floating:
                finite = tf.reduce_all(tf.math.is_finite(tf.reshape(leaf, (len(leaf), -1))), axis=1).numpy()
                if not finite.all():
                    row = int(examples.rows[start + int(np.argmin(finite))])
                    return f"Example {row} of the training data has NaN or infinity in its inputs."
        start += len(keras.tree.flatten(batch)[0])
    return ""
