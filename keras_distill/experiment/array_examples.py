"""Examples of one split as arrays in memory."""

import functools
import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import TeacherCache
from keras_distill.callbacks.backup import Backup
from keras_distill.experiment.examples import Examples, digest_of
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
        # tf.data would stack the arrays of a list.
        self._arrays = keras.tree.map_structure(np.asarray, keras.tree.lists_to_tuples(arrays))
        lengths = {len(array) for array in keras.tree.flatten(self._arrays)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"Inputs and labels must be arrays with the same number of rows, at least one. Received: {lengths} rows"
            )
        self.rows = np.arange(lengths.pop()) if rows is None else rows

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
