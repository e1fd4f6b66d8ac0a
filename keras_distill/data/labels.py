"""Missing labels and class indices."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_distill.types import Tensor

# Class index of an example without a label.
UNLABELLED = -1


def label_mask(labels: Tensor, class_indices: bool = False) -> Tensor:
    """Return a mask of the labels that are present.

    A batch may mix labeled and unlabeled examples. A missing label is NaN in a floating-point dtype, component by
    component, and `UNLABELLED` (-1) in a signed integer dtype if the labels are class indices. Everything else is an
    ordinary value: -1.0, -1 of a hinge loss or of an integer target, True, and 255 in uint8.

    Example:
    >>> label_mask(np.array([2, UNLABELLED, 0]), class_indices=True).numpy().tolist()
    [True, False, True]
    >>> label_mask(np.array([[0.5, np.nan], [-1.0, 1.0]])).numpy().tolist()
    [[True, False], [True, True]]

    Args:
        labels: Labels, shape `[batch, ...]`.
        class_indices: Whether the labels are class indices. Defaults to False.

    Returns:
        Booleans, the shape of `labels`.
    """
    labels = ops.convert_to_tensor(labels)
    if keras.backend.is_float_dtype(labels.dtype):
        return ops.logical_not(ops.isnan(labels))
    if class_indices and can_be_missing(labels.dtype, class_indices):
        return ops.not_equal(labels, ops.cast(UNLABELLED, labels.dtype))
    return ops.ones_like(labels, dtype="bool")


def can_be_missing(dtype: str, class_indices: bool) -> bool:
    """Return whether labels of a dtype may be missing.

    Args:
        dtype: Dtype of the labels.
        class_indices: Whether the labels are class indices.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    return keras.backend.is_float_dtype(dtype) or class_indices and dtype.startswith("int")


def are_class_indices(labels: Tensor, outputs: Tensor) -> bool:
    """Return whether labels have the shape of class indices for outputs of several classes.

    Args:
        labels: Labels; only the shape matters.
        outputs: Logits or probabilities, shape `[batch, positions..., classes]`; only the shape matters.
    """
    rank = len(labels.shape)
    if not rank or outputs.shape[-1] == 1:
        return False
    return rank < len(outputs.shape) or labels.shape[-1] == 1


def check_indices(labels: Any, classes: int, model: str, ignored: int | None = None) -> None:
    """Raise ValueError for a class index that is neither a class nor missing.

    Args:
        labels: Class indices, in any shape.
        classes: Number of classes.
        model: Name of the model, for the error.
        ignored: Another index that counts as missing. Defaults to None.
    """
    labels = np.asarray(labels)
    invalid = ((labels < 0) | (labels >= classes)) & (labels != UNLABELLED)
    if ignored is not None:
        invalid &= labels != ignored
    if invalid.any():
        position = int(np.argwhere(invalid)[0][0])
        raise ValueError(
            f"The label {labels[invalid][0]} of example {position} is not a class of '{model}', which has the classes "
            f"0 to {classes - 1}. Number the classes from 0 without gaps; {UNLABELLED} is a missing label."
        )
