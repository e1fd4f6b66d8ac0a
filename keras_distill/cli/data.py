"""Splits of the datasets that a command line names."""

import argparse
import pathlib
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data.datasets import class_names, has_splits
from keras_distill.experiment import Classification, Data, Task
from keras_distill.experiment.data import as_examples
from keras_distill.experiment.examples import Examples
from keras_distill.experiment.position_task import PositionTask

from .common import CommandError
from .reading import examples
from .tasks import as_class_indices, check_dtype, choose_task
from .texts import SUFFIXES

# Datasets up to this size are read into memory once.
_MEMORY = 2**30


def open_training(options: argparse.Namespace, *models: keras.Model) -> tuple[Examples, Task]:
    """Open the dataset of `--dataset`, and choose the task.

    Args:
        options: Options of the command.
        *models: Student and teacher.

    Raises:
        CommandError: If the dataset is empty, or a label is not a class.
        ValueError: If the dataset cannot be opened, or does not fit the models.
    """
    opened = read_examples(examples(options, *models), options.dataset)
    task = choose_task(options, models[0], opened)
    _check_directories(options.dataset, task, models[0])
    return _with_indices(opened, task, models[0], options.dataset), task


def open_data(options: argparse.Namespace, *models: keras.Model) -> tuple[Data, Task]:
    """Open all splits that the options name, and choose the task.

    Args:
        options: Options of the command.
        *models: Student and teacher.

    Raises:
        CommandError: If a dataset is empty or too small, or labels or another split do not fit.
        ValueError: If a dataset cannot be opened, or does not fit the models.
    """
    train, task = open_training(options, *models)
    validation, test = options.validation, options.test
    # The split by which a search chooses would make its result look too good.
    test = 0.1 if test is None and options.tune else test
    if validation is None and (test is None or options.tune or options.patience):
        validation = 0.1
    splits = {}
    # The test split first: it must not depend on the other options.
    for name, source in (("test", test), ("validation", validation)):
        if isinstance(source, float):
            try:
                train, splits[name] = train.split(source)
            except ValueError as error:
                raise CommandError(f"--{name}={source:g} of {options.dataset}: {error}") from error
        elif source is not None:
            splits[name] = _open_other(options, name, source, train, task, *models)
    is_text = pathlib.Path(options.dataset).suffix in SUFFIXES
    classes = options.classes or (None if is_text else class_names(options.dataset, options.data_dir))
    known = task.classes(models[0]) or []
    if options.classes and len(options.classes) != len(known):
        raise CommandError(f"--classes has {len(options.classes)} names, but the student has {len(known)} classes.")
    return Data(train, **splits, classes=classes if classes and len(classes) == len(known) else None), task


def _open_other(options, name, source, train, task, *models):
    path = pathlib.Path(source).expanduser()
    if path.exists() or path.suffix in (".npy", ".npz", *SUFFIXES):
        dataset = examples(options, *models, source=source)
    elif has_splits(options.dataset):
        dataset = examples(options, *models, split=source)
    else:
        raise CommandError(
            f"--{name}={source} is neither a fraction such as 0.1 nor an existing dataset, and {options.dataset} has "
            "no splits. Pass a fraction, or the path of a .npy/.npz file or directory."
        )
    expected = examples(options, *models).element_spec
    if not _same_shapes(dataset.element_spec, expected):
        raise CommandError(
            f"examples of --{name}={source} are {dataset.element_spec}, but those of {options.dataset} are {expected}. "
            "Shapes and dtypes must be equal."
        )
    _check_directories(source, task, models[0])
    return _with_indices(read_examples(dataset, source), task, models[0], source)


def _check_directories(source, task, student):
    """Raise an error for more subdirectories of images than classes; warn of fewer, whose numbers may not fit."""
    known, path = task.classes(student), pathlib.Path(source).expanduser()
    names = class_names(source) if known and path.is_dir() and not has_splits(source) else None
    # A single output unit has two classes.
    if not names or len(names) == max(len(known), 2):
        return
    listed = names if len(names) <= 20 else [*names[:10], "...", names[-1]]
    text = (
        f"{source} has {len(names)} subdirectories, {', '.join(listed)}, but '{student.name}' has {len(known)} "
        "classes. Each class needs one subdirectory, in alphabetical order; it may be empty."
    )
    if len(names) > len(known):
        raise CommandError(text)
    warnings.warn(text, stacklevel=2)


def _same_shapes(spec, expected):
    return keras.tree.map_structure(str, spec) == keras.tree.map_structure(str, expected)


def read_examples(dataset: tf.data.Dataset, source: str) -> Examples:
    """Return the examples of a dataset, in memory if they are small.

    Args:
        dataset: Dataset of single examples.
        source: Its name, for the error.

    Raises:
        CommandError: If it is empty.
    """
    try:
        if not _fits(dataset):
            return as_examples(dataset)
        batches = list(dataset.batch(1024).as_numpy_iterator())
        if not batches:
            raise ValueError
        return as_examples(keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *batches))
    except ValueError:
        raise CommandError(f"{source} holds no examples.") from None


def _fits(dataset):
    count, size = int(dataset.cardinality()), 0
    for spec in keras.tree.flatten(dataset.element_spec):
        if not spec.shape.is_fully_defined() or spec.dtype == tf.string:
            return False
        size += int(np.prod(spec.shape.as_list())) * spec.dtype.size
    return 0 <= count * size <= _MEMORY


def _with_indices(opened: Examples, task: Task, student: keras.Model, source: str) -> Examples:
    """Check the labels, and turn class indices in a floating-point dtype into integers."""
    labels: Any = opened.labels()
    if labels is None:
        return opened
    check_dtype(labels, source)
    is_index = isinstance(task, Classification) and not task.one_hot
    if isinstance(task, PositionTask) or is_index:
        ignored = task.ignore_class if isinstance(task, PositionTask) else None
        converted = as_class_indices(labels, student.output_shape[-1], source, ignored)
        opened = opened if converted is labels else opened.with_labels(converted)
    try:
        task.check(student, opened.labels())
    except ValueError as error:
        raise CommandError(f"{source}: {error}") from error
    return opened
