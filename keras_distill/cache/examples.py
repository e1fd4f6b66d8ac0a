"""Examples to label, a dataset or arrays in memory, with their fingerprints."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache.indexing import as_element, index_arrays, indexed, is_indexed, split_element
from keras_distill.cache.lengths import batched
from keras_distill.cache.views import Views
from keras_distill.types import Structure, Tensor


class Examples:
    """Examples with index and fingerprint, in the order in which they are labeled.

    Args:
        dataset: `tf.data.Dataset` of single examples, or a tuple of arrays, as for `label`.
        views: `Views`, or None.

    Attributes:
        dataset: The indexed dataset of single examples, of all views.

    Raises:
        ValueError: For a dataset without end, and for views that are not repeatable.
    """

    def __init__(self, dataset: tf.data.Dataset | tuple, views: Views | None = None):
        arrays = None if isinstance(dataset, tf.data.Dataset) else index_arrays(dataset)
        given = dataset if arrays is None else tf.data.Dataset.from_tensor_slices(arrays)
        self.dataset = indexed(given)
        if self.dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("The dataset has no end. Pass it without `repeat()`: each example is labeled once.")
        if views is not None:
            views.check_repeatable(self.dataset)
            self.dataset, arrays = views.all_of(self.dataset), None
        # Without labels and sample weights.
        arrays = arrays[0] if isinstance(arrays, tuple) else arrays
        # Slices of tensors would take a quarter of the time of a small teacher.
        self._arrays = keras.tree.map_structure(lambda leaf: leaf.numpy() if tf.is_tensor(leaf) else leaf, arrays)
        # The fingerprints of a whole batch take much less time than those of single examples.
        is_plain = isinstance(given, tf.data.Dataset) and not is_indexed(given) and views is None
        self._plain = given if is_plain and all(map(_is_number, keras.tree.flatten(self.inputs))) else None

    @property
    def inputs(self) -> Structure:
        """Structure of `tf.TensorSpec` of the inputs of one example."""
        return split_element(self.dataset.element_spec)[0]

    @property
    def count(self) -> int | None:
        """Number of the examples, None if it is unknown or 0."""
        count = int(self.dataset.cardinality())
        return count if count > 0 else None

    def fingerprints(self, count: int) -> np.ndarray:
        """Return the fingerprints of the first examples, int64 of shape `[count]`, or of all if there are fewer."""
        if self._arrays is not None:
            return split_element(self._arrays)[2][:count]
        if self._plain is not None:
            found = (split_element(index_arrays(batch))[2] for batch in self._plain.take(count).batch(1024))
            return np.concatenate([np.zeros(0, "int64"), *(batch.numpy() for batch in found)])
        batches = self.dataset.take(count).map(lambda *x: split_element(as_element(x))[2]).batch(1024)
        return np.concatenate([np.zeros(0, "int64"), *(batch.numpy() for batch in batches)])

    def batches(self, start: int, batch_size: int) -> Iterator[tuple[Any, Tensor | None]]:
        """Yield `(element, lengths)` of batches, as `lengths.batched` does.

        Args:
            start: Number of examples that are left out.
            batch_size: Number of examples per batch.
        """
        if self._plain is not None:
            batches = self._plain.skip(start).batch(batch_size).prefetch(tf.data.AUTOTUNE)
            for number, batch in enumerate(batches):
                yield index_arrays(batch, start + number * batch_size), None
            return
        if self._arrays is None:
            yield from batched(self.dataset.skip(start), batch_size)
            return
        for first in range(start, len(split_element(self._arrays)[2]), batch_size):
            yield self._slice(first, first + batch_size), None

    def _slice(self, first, last):
        return keras.tree.map_structure(lambda array: tf.constant(array[first:last]), self._arrays)


def _is_number(spec):
    """Return whether an input of an example is a dense tensor of numbers of a fixed shape."""
    return isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined() and spec.dtype != tf.string
