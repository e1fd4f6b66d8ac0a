"""Labels of `check` and `distill`."""

from typing import Any

import numpy as np

from keras_distill.data.labels import UNLABELLED

from .common import CommandError


def label_kind(source: str, spec: Any, classes: int) -> str | None:
    """Return "integer", "one-hot", or None for a dataset without labels.

    Args:
        source: Name of the dataset, for the error.
        spec: `element_spec` of the dataset.
        classes: Number of classes of the student.

    Raises:
        CommandError: For labels of another dtype or shape.
    """
    if not isinstance(spec, tuple):
        return None
    labels = spec[1]
    if labels.dtype.is_floating or labels.dtype.is_integer:
        if labels.shape in ((), (1,)):
            return "integer"
        if labels.shape == (classes,):
            return "one-hot"
    raise CommandError(
        f"labels of {source} have dtype {labels.dtype.name} and shape {labels.shape}. They must be class indices, "
        f"shape () or (1,), or one-hot for the student's {classes} classes, shape ({classes},)."
    )


def invalid_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return which class indices are neither classes nor missing.

    Args:
        labels: Numbers, shape `[examples]` or `[examples, 1]`.
        classes: Number of classes of the student.

    Returns:
        Booleans, shape `[examples]`.
    """
    labels = labels.reshape(len(labels))
    invalid = (labels < 0) | (labels >= classes) | (labels != np.round(labels))
    return invalid & ~np.isnan(labels) & (labels != UNLABELLED)


def class_error(label: Any, owner: str, classes: int) -> CommandError:
    """Return the error for a label that is not a class.

    Args:
        label: The label.
        owner: The example that has it, such as "example 3 of train.npz".
        classes: Number of classes of the student.
    """
    return CommandError(
        f"the label {label} of {owner} is not a class of the student, which has the classes 0 to {classes - 1}. Number "
        "the classes from 0 without gaps; -1 is a missing label."
    )
