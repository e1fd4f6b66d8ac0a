"""Examples of one split as arrays in memory."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import TeacherCache
from keras_distill.callbacks.data_order import array_batches
from keras_distill.data.augmentation import augment
from keras_distill.experiment.examples import Examples, check_alike, digest_of
from keras_distill.experiment.streamed_examples import StreamedExamples
from keras_distill.types import Structure


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
        # As in Keras, None stands for no labels or no sample weights.
        while len(arrays) > 1 and arrays[-1] is None:
            arrays = arrays[:-1]
        # tf.data would stack the arrays of a list.
        self._arrays = keras.tree.map_structure(np.asarray, keras.tree.lists_to_tuples(arrays))
        lengths = {len(array) for array in keras.tree.flatten(self._arrays)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"Inputs and labels must be arrays with the same number of rows, at least one. Received: {lengths} rows"
            )
        self.rows = np.arange(lengths.pop()) if rows is None else rows
        # Inputs joined with a cache, which selections of the same arrays share: every example is compared with its
        # fingerprint, which takes longer than a short training.
        self._joined: dict[TeacherCache, Any] = {}

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.inputs_digest}{digest_of(self._arrays[1:])}".encode()).hexdigest()[:32]

    @functools.cached_property
    def inputs_digest(self) -> str:
        return digest_of(self._arrays[0])

    def labels(self) -> Any:
        return self._take(self._arrays[1], self.rows) if len(self._arrays) > 1 else None

    def inputs(self, indices: Any) -> Structure:
        return self._take(self._arrays[0], self.rows[np.asarray(indices, int)])

    def select(self, indices: Any) -> "ArrayExamples":
        selected = ArrayExamples(self._arrays, self.rows[indices])
        selected._joined = self._joined
        return selected

    def with_labels(self, labels: Any) -> "ArrayExamples":
        count = len(keras.tree.flatten(self._arrays[0])[0])

        def spread(new):
            # Nothing reads the other rows.
            whole = np.zeros((count, *np.shape(new)[1:]), np.asarray(new).dtype)
            whole[self.rows] = new
            return whole

        spread_labels = () if labels is None else (keras.tree.map_structure(spread, labels), *self._arrays[2:])
        return ArrayExamples((self._arrays[0], *spread_labels), self.rows)

    def augmented(self, augmentation: Callable[..., Any], size: int, seed: int) -> "ArrayExamples":
        inputs, labels = augment(augmentation, self._take(self._arrays[0], self.rows), self.labels(), size, seed)
        return ArrayExamples((inputs,) if labels is None else (inputs, labels))

    def followed_by(self, others: Examples) -> Examples:
        if not isinstance(others, ArrayExamples):
            return self.as_stream().followed_by(others)
        given, new = self._take(self._arrays, self.rows), self._take(others._arrays, others.rows)
        for what, first, second in zip(("inputs", "labels"), given, new):
            check_alike(first, second, what)
        new = (*new[:2], *(np.ones(len(others), weights.dtype) for weights in given[2:]))
        return ArrayExamples(keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), given, new))

    def as_stream(self) -> StreamedExamples:
        """Return the same examples as a stream."""
        return StreamedExamples(tf.data.Dataset.from_tensor_slices(_element(self._take(self._arrays, self.rows))))

    def whole(self) -> Any:
        return (self._arrays[0],)

    def epoch(self, batch_size: int, stored: TeacherCache | None = None) -> Callable[[tf.Tensor], tf.data.Dataset]:
        return array_batches(self._rows_with(stored), batch_size)

    def shuffled_batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return self.select(np.random.default_rng(0).permutation(len(self))).batches(batch_size, stored)

    def batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(self._rows_with(stored)).batch(batch_size)

    def _rows_with(self, stored):
        if stored is not None and stored not in self._joined:
            self._joined.clear()
            self._joined[stored] = stored.load(self._arrays[0])
        inputs = self._arrays[0] if stored is None else self._joined[stored]
        return self._take((inputs, *self._arrays[1:]), self.rows)

    @staticmethod
    def _take(structure, rows):
        # A slice is not copied.
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            rows = slice(rows[0], rows[-1] + 1)
        return keras.tree.map_structure(lambda array: array[rows], structure)


def _element(arrays):
    return arrays if len(arrays) > 1 else arrays[0]
