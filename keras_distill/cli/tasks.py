"""Task of a command: what the models predict."""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data.labels import UNLABELLED
from keras_distill.experiment import (
    Classification,
    LanguageModeling,
    MultiLabelClassification,
    Regression,
    Segmentation,
    Task,
)

from .common import CommandError
from .texts import SUFFIXES

if TYPE_CHECKING:
    from keras_distill.experiment.examples import Examples


def choose_task(options: argparse.Namespace, student: keras.Model, examples: "Examples") -> Task:
    """Return the task of `--task`, or the one that fits the student's output and the labels.

    Args:
        options: Options of the command.
        student: The student.
        examples: The training examples.

    Raises:
        CommandError: If the student does not have a single output, or labels and output fit no task.
    """
    shape, labels = getattr(student, "output_shape", None), examples.labels()
    if not isinstance(shape, tuple) or len(shape) < 2 or not all(isinstance(size, int | None) for size in shape):
        raise CommandError(
            f"'{student.name}' must have one output, but its output shape is {shape}. For other models use "
            "keras_distill.experiment in Python."
        )
    is_text = pathlib.Path(options.dataset).suffix in SUFFIXES
    name = options.task or ("language" if is_text else _inferred(shape, labels))
    if name == "language":
        return LanguageModeling(options.ignore_class)
    if name == "segmentation":
        return Segmentation(options.ignore_class)
    if name == "multilabel":
        return MultiLabelClassification()
    if name == "regression":
        return Regression()
    return Classification(one_hot=labels is not None and np.shape(labels)[1:] == (shape[-1],))


def as_class_indices(labels: np.ndarray, classes: int, source: str, ignored: int | None = None) -> np.ndarray:
    """Return class indices as integers. NaN becomes a missing label.

    Args:
        labels: Numbers in any dtype and shape.
        classes: Number of classes of the student.
        source: Name of the dataset, for the error.
        ignored: Class index of positions that do not count. Defaults to None.

    Raises:
        CommandError: For a label that is neither a class nor missing.
    """
    rows = labels.reshape(len(labels), -1)
    invalid = (rows < 0) | (rows >= classes) | (rows != np.round(rows))
    invalid &= (rows != UNLABELLED) & (rows != (UNLABELLED if ignored is None else ignored))
    invalid &= ~np.isnan(rows) if labels.dtype.kind == "f" else True
    if invalid.any():
        hint = " Pass --ignore-class for pixels that do not count." if rows.shape[1] > 1 and ignored is None else ""
        example, component = np.argwhere(invalid)[0]
        raise CommandError(
            f"the label {rows[example, component]} of example {example} of {source} is not a class of the student, "
            f"which has the classes 0 to {classes - 1}. Number the classes from 0 without gaps; {UNLABELLED} is a "
            f"missing label.{hint}"
        )
    if labels.dtype.kind != "f":
        return labels
    return np.where(np.isnan(labels), UNLABELLED, labels).astype("int32")


def check_dtype(labels: Any, source: str) -> None:
    """Raise CommandError for labels that are not numbers."""
    for array in keras.tree.flatten(labels):
        if np.asarray(array).dtype.kind not in "iufb":
            raise CommandError(
                f"labels of {source} have dtype {tf.as_dtype(np.asarray(array).dtype).name}. They must be numbers: "
                "class indices from 0, or real numbers for a regression."
            )


def _inferred(shape, labels):
    if labels is None:
        return (
            "classification"
            if len(shape) == 2 and shape[-1] != 1
            else "segmentation"
            if len(shape) > 2
            else "regression"
        )
    labels = np.asarray(labels)
    values = labels.astype(float)
    is_binary = bool(np.isin(values[~np.isnan(values)], (0, 1)).all())
    if len(shape) > 2:
        return "segmentation"
    if shape[-1] == 1:
        return "multilabel" if is_binary else "regression"
    if labels.ndim == 1 or labels.shape[1:] == (1,):
        return "classification"
    one_hot = is_binary and bool((np.nansum(values, axis=1) == 1).all())
    return "classification" if one_hot else "multilabel" if is_binary else "regression"
