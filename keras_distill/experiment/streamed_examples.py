"""Examples of one split as a `tf.data.Dataset`."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import TeacherCache, indexed
from keras_distill.cache.indexing import as_element, split_element
from keras_distill.data.augmentation import augment_dataset
from keras_distill.experiment.examples import Examples, check_alike, digest_of
from keras_distill.types import Structure

# Memory of the shuffle buffer; datasets that fit into it are shuffled uniformly.
_SHUFFLE_BYTES = 2**30


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
        return hashlib.sha256(f"{self.inputs_digest}{digest_of(self.labels())}".encode()).hexdigest()[:32]

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

        spread_labels = None if labels is None else keras.tree.map_structure(spread, labels)
        tensors = None if labels is None else keras.tree.map_structure(tf.constant, spread_labels)

        def replace(*element):
            # The inputs with their index, then labels and sample weights.
            joined, *rest = element
            if labels is None:
                return joined
            index = tf.minimum(split_element((joined,))[1], count - 1)
            return joined, keras.tree.map_structure(lambda tensor: tensor[index], tensors), *rest[1:]

        copy = self._copy(self.rows, spread_labels)
        copy._whole = self._whole.map(replace, num_parallel_calls=tf.data.AUTOTUNE)
        return copy

    def augmented(self, augmentation: Callable[..., Any], size: int, seed: int) -> "StreamedExamples":
        return StreamedExamples(augment_dataset(augmentation, self._plain(), size, seed))

    def followed_by(self, others: Examples) -> "StreamedExamples":
        others = others if isinstance(others, StreamedExamples) else others.as_stream()
        given, new = self._plain(), others._plain()
        first, second = (
            spec if isinstance(spec, tuple) else (spec,) for spec in (given.element_spec, new.element_spec)
        )
        for what, *pair in zip(("inputs", "labels"), first, second):
            check_alike(*(keras.tree.map_structure(_batched, spec) for spec in pair), what)
        if len(first) > 1:
            ones = [tf.ones(spec.shape, spec.dtype) for spec in first[2:]]
            new = new.map(lambda inputs, labels, *weights: (inputs, labels, *ones), tf.data.AUTOTUNE)
        return StreamedExamples(given.concatenate(new))

    def whole(self) -> Any:
        return self._whole

    def epoch(self, batch_size: int, stored: TeacherCache | None = None) -> Callable[[tf.Tensor], tf.data.Dataset]:
        return lambda seed: self._shuffled(batch_size, stored, seed)

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

    def _plain(self):
        return self._selected().map(_without_index, tf.data.AUTOTUNE)

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


def _batched(spec: tf.TensorSpec) -> tf.TensorSpec:
    return tf.TensorSpec((None, *spec.shape), spec.dtype)
