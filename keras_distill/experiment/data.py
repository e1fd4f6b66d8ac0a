"""Data of an experiment: training, validation and test split."""

import hashlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.experiment.array_examples import ArrayExamples
from keras_distill.experiment.examples import Examples
from keras_distill.experiment.streamed_examples import StreamedExamples
from keras_distill.experiment.task import Task


class Data:
    """Training, validation and test split of an experiment.

    Each split is `(x, y)` of arrays (inputs may be a structure of arrays), `(x, y, sample_weight)`, inputs `x` without
    labels, or a `tf.data.Dataset` of such single examples, always in the same order.

    Models are compared on the test split, by which nothing is chosen. Early stopping and a search read the validation
    split alone. Without a test split, models are compared on the validation split; the report names the split.

    Args:
        train: Training split.
        test: Test split. Defaults to None.
        validation: Validation split; or a number in (0, 1), the fraction of the training split that is split off, at
            random but always the same. 0.1 is typical. Defaults to None.
        classes: Class names, in the order of the model's outputs. Defaults to None: numbers.

    Raises:
        ValueError: If a split is empty, its arrays differ in length, or there is neither a test nor a validation split.

    Example:

    >>> from keras_distill.experiment import Data
    >>> data = Data(train=(x, y), validation=0.25)
    >>> len(data.train), len(data.validation)
    (24, 8)
    """

    def __init__(self, train: Any, test: Any = None, validation: Any = None, classes: Sequence[str] | None = None):
        if test is None and validation is None:
            raise ValueError("Pass a `test` or a `validation` split, such as `validation=0.1`.")
        self.train: Examples = as_examples(train)
        self.test: Examples | None = None if test is None else as_examples(test)
        if isinstance(validation, (int, float)):
            if not 0 < validation < 1:
                raise ValueError(f"`validation` must be a split or a fraction in (0, 1). Received: {validation!r}")
            self.train, self.validation = self.train.split(validation)
        else:
            self.validation = None if validation is None else as_examples(validation)
        self.classes = None if classes is None else [str(name) for name in classes]

    @property
    def evaluation(self) -> Examples:
        """The split on which models are compared: test if there is one, otherwise validation."""
        split = self.validation if self.test is None else self.test
        assert split is not None
        return split

    @property
    def evaluation_name(self) -> str:
        """Name of this split: "test" or "validation"."""
        return "validation" if self.test is None else "test"

    def digest(self) -> str:
        """Return a text that differs for other examples or other splits."""
        splits = [split for split in (self.train, self.validation, self.test) if split is not None]
        return "-".join(f"{split.digest[:12]}.{hash_rows(split.rows)}" for split in splits)


def as_examples(source: Any) -> Examples:
    """Return examples as an object that experiments read.

    Args:
        source: Inputs `x`, or `(x, y)` or `(x, y, sample_weight)`, of arrays or structures of arrays with one row per
            example, None for what is missing; or a `tf.data.Dataset` of such single examples, always in the same order.

    Raises:
        ValueError: If the source is empty, or arrays differ in length.
    """
    if isinstance(source, Examples):
        return source
    if isinstance(source, tf.data.Dataset):
        return StreamedExamples(source)
    return ArrayExamples(source)


def with_few_labels(examples: Examples, count: int | None, task: Task) -> Examples:
    """Return the examples with the first labels only; the others are missing.

    Args:
        examples: The examples.
        count: Number of labels that are left. None for all.
        task: The `Task`, which knows how missing labels look.
    """
    labels = examples.labels()
    if count is None or labels is None:
        return examples

    def first(given, missing):
        shape = (-1, *[1] * (np.ndim(given) - 1))
        return np.where((np.arange(len(given)) < count).reshape(shape), given, missing)

    return examples.with_labels(keras.tree.map_structure(first, labels, task.missing_labels(labels)))


def labeled_only(examples: Examples, task: Task) -> Examples:
    """Return the labeled examples.

    Args:
        examples: The examples.
        task: The `Task`, which knows how missing labels look.

    Raises:
        ValueError: If no example has a label.
    """
    labels = examples.labels()
    labeled = np.zeros(len(examples), bool) if labels is None else task.labeled(labels)
    if not labeled.any():
        raise ValueError("No training example has a label, which a baseline is trained on.")
    return examples if labeled.all() else examples.select(np.flatnonzero(labeled))


def repeated(examples: Examples, count: int) -> Examples:
    """Return examples, repeated to a number, so that an epoch has as many steps as with that number.

    Args:
        examples: The examples.
        count: The number.
    """
    return examples if len(examples) == count else examples.select(np.resize(np.arange(len(examples)), count))


def hash_rows(rows: np.ndarray) -> str:
    """Return 8 hexadecimal digits that identify a choice of rows."""
    return hashlib.sha256(np.ascontiguousarray(rows, "int64").tobytes()).hexdigest()[:8]
