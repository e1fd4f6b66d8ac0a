"""Labeled examples, and further ones that the teacher labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import TeacherCache
from keras_distill.experiment.arm import Arm
from keras_distill.experiment.data import as_examples, repeated
from keras_distill.experiment.examples import Examples
from keras_distill.experiment.streamed_examples import StreamedExamples
from keras_distill.experiment.task import Task
from keras_distill.types import Structure


class TransferExamples(Examples):
    """Training examples and a transfer set, which has a fixed share of each batch.

    Args:
        source: The training examples, followed by the transfer set.
        given: Number of training examples.
        share: Share of the transfer set in each batch, in (0, 1).
        count: Number of examples in an epoch: another random part of both kinds each time.
    """

    def __init__(self, source: Examples, given: int, share: float, count: int):
        self._source, self._share, self._count = source, share, count
        self._given, self._new = source.select(np.arange(given)), source.select(np.arange(given, len(source)))
        self.rows, self.digest, self.inputs_digest = source.rows, source.digest, source.inputs_digest

    def labels(self) -> Any:
        return self._source.labels()

    def inputs(self, indices: Any) -> Structure:
        return self._source.inputs(indices)

    def select(self, indices: Any) -> Examples:
        return self._source.select(indices)

    def with_labels(self, labels: Any) -> TransferExamples:
        return TransferExamples(self._source.with_labels(labels), len(self._given), self._share, self._count)

    def whole(self) -> Any:
        return self._source.whole()

    def batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        return self._source.batches(batch_size, stored)

    def shuffled_batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        make = self.epoch(batch_size, stored)

        def one_epoch(seed):
            # The order must not depend on the global seed, which other code may set.
            tf.random.set_seed(1)
            return make(seed)

        seeds = tf.data.Dataset.random(seed=0, rerandomize_each_iteration=True).take(1)
        return seeds.flat_map(one_epoch).apply(tf.data.experimental.assert_cardinality(self._steps(batch_size)))

    def epoch(self, batch_size: int, stored: TeacherCache | None = None) -> Callable[[tf.Tensor], tf.data.Dataset]:
        # Both kinds are in every batch of at least two.
        new = min(max(round(self._share * batch_size), 1), max(batch_size - 1, 1))
        sizes, steps = (max(batch_size - new, 1), new), self._steps(batch_size)
        # Too few examples are repeated, so that every batch is full.
        enough = [repeated(each, max(len(each), steps * size)) for each, size in zip((self._given, self._new), sizes)]
        given_epoch, new_epoch = (each.epoch(size, stored) for each, size in zip(enough, sizes))
        # A stream is shuffled within a buffer: an epoch would always begin with the same examples.
        unused = len(enough[1]) // new - steps if isinstance(enough[1], StreamedExamples) else 0

        def make(seed):
            new_batches = new_epoch(seed)
            if unused > 0:
                new_batches = new_batches.skip(tf.math.floormod(tf.cast(seed, "int64"), unused + 1))
            both = tf.data.Dataset.zip(given_epoch(seed), new_batches).take(steps)
            joined = both.map(_concatenate, num_parallel_calls=tf.data.AUTOTUNE)
            return joined.apply(tf.data.experimental.assert_cardinality(steps))

        return make

    def _steps(self, batch_size):
        return -(-self._count // batch_size)


def with_transfer_set(examples: Examples, arm: Arm, task: Task, count: int) -> TransferExamples:
    """Return training examples together with the transfer set of an arm.

    Args:
        examples: The training examples, as a student sees them: some labels may be missing.
        arm: The arm. If a teacher labels the new examples, their own labels are removed.
        task: The task that the arm is trained for, which knows how missing labels look.
        count: Number of examples in an epoch.

    Raises:
        ValueError: If the transfer set has no labels without a teacher, or its examples are not like the others.
    """
    transfer, labels = arm.transfer, examples.labels()
    if transfer.augmentation is None:
        new = as_examples(transfer.examples)
    else:
        # Labels that are removed need not be mixed.
        origin = examples.with_labels(None) if arm.distilled else examples
        new = origin.augmented(transfer.augmentation, transfer.size, transfer.seed)
    if labels is None:
        new = new.with_labels(None)
    elif arm.distilled:
        labels, missing = _with_missing(task, labels, len(new))
        examples, new = examples.with_labels(labels), new.with_labels(missing)
    elif new.labels() is None:
        raise ValueError(
            "The transfer set has no labels, so that a student without a teacher cannot be trained on it. Pass labels, "
            "`TransferSet((x, y))`, or leave out `transfer`."
        )
    return TransferExamples(examples.followed_by(new), len(examples), transfer.share, count)


def _with_missing(task, labels, count):
    """Return labels and a number of missing ones, in a dtype that can represent both."""
    few = keras.tree.map_structure(lambda array: np.resize(array, (count, *array.shape[1:])), labels)
    missing = task.missing_labels(few)

    def cast(first, second):
        return first.astype(np.result_type(first, second))

    return keras.tree.map_structure(cast, labels, missing), keras.tree.map_structure(cast, missing, labels)


def _concatenate(first, second):
    return keras.tree.map_structure(lambda *tensors: tf.concat(tensors, axis=0), first, second)
