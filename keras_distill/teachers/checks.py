"""Checks of weights, class mappings and logits, and the mapping of logits between classes, for several teachers."""

import collections
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.models.softmax import as_logits
from keras_distill.models.specs import spec_of
from keras_distill.types import Tensor


def check_finite_weights(teacher: Any) -> None:
    """Raise ValueError if weights of a teacher contain NaN or infinity. The error names them.

    Args:
        teacher: A `Teacher`.
    """
    broken = non_finite_weights(teacher.weights)
    if broken:
        raise ValueError(
            f"The teacher's weights {shorten(broken)} contain NaN or infinity. Check how it was trained and loaded."
        )


def non_finite_weights(weights: Sequence[Any]) -> list[str]:
    """Return the paths of the weights that contain NaN or infinity."""
    return [
        weight.path
        for weight in weights
        if keras.backend.is_float_dtype(weight.dtype) and not bool(tf.reduce_all(tf.math.is_finite(weight)))
    ]


def shorten(names: list[str]) -> list[str]:
    """Return the first three names of a list, and the number of the others."""
    return names if len(names) <= 3 else [*names[:3], f"and {len(names) - 3} more"]


def class_map(classes: Any) -> tuple[tuple[int, ...], ...]:
    """Return the teacher classes of each student class.

    Args:
        classes: For each student class, the index of a teacher class or a list of indices, as for `ModelTeacher`.

    Returns:
        For each student class a tuple of indices of teacher classes.

    Raises:
        ValueError: If `classes` is not such a list, a student class has no teacher class, or a teacher class is used
            twice.
    """
    if not isinstance(classes, (list, tuple, range, np.ndarray)) or not len(classes):
        raise ValueError(
            "`classes` must be a list with the index of a teacher class, or a list of indices, for each student class, "
            f"such as classes=[3, 7, [0, 1, 2]]. Received: {classes!r}"
        )
    groups = tuple(tuple(c) if isinstance(c, (list, tuple, range, np.ndarray)) else (c,) for c in classes)
    empty = [index for index, group in enumerate(groups) if not group]
    if empty:
        raise ValueError(f"`classes` has no teacher class for the student classes {empty}. Received: {classes!r}")
    used = [c for group in groups for c in group]
    invalid = [c for c in used if not isinstance(c, numbers.Integral) or isinstance(c, bool) or c < 0]
    if invalid:
        raise ValueError(f"`classes` must contain indices of teacher classes, integers >= 0. Received: {invalid}")
    repeated = sorted(int(c) for c, count in collections.Counter(used).items() if count > 1)
    if repeated:
        raise ValueError(f"`classes` must use each teacher class at most once. Used more than once: {repeated}.")
    return tuple(tuple(int(c) for c in group) for group in groups)


def map_logits(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Map a teacher's logits to the student's classes, by adding up the probabilities of each group of classes.

    Args:
        logits: Shape `[batch, positions..., teacher classes]`.
        groups: Teacher classes of each student class, as `class_map` returns them.

    Returns:
        float32, shape `[batch, positions..., student classes]`: the log-sum-exp over each group. A Keras mask stays
        attached.

    Raises:
        ValueError: If the teacher has fewer classes than `groups` uses, or its output ends in a sigmoid.
    """
    num_classes = logits.shape[-1] if len(logits.shape) > 1 else 0
    out_of_range = [c for group in groups for c in group if num_classes is not None and c >= num_classes]
    if out_of_range:
        raise ValueError(
            f"`classes` uses the teacher classes {out_of_range}, but the teacher's output of shape "
            f"{tuple(logits.shape)} has {num_classes} classes. Indices start at 0."
        )
    logits = logits_of_prediction(logits, "The teacher's output", "`classes` maps logits")
    used = np.array([c for group in groups for c in group])
    result = ops.take(ops.cast(logits, "float32"), used, axis=-1)
    if len(used) > len(groups):
        result = _add_probabilities(result, np.repeat(np.arange(len(groups)), [len(group) for group in groups]))
    mask = _compat.keras_mask(logits)
    if mask is not None:
        _compat.set_keras_mask(result, mask)
    return result


def _add_probabilities(logits, segments):
    """Return the log-sum-exp over the last axis of each segment; the segments are sorted."""
    # A matrix with a row for each class would be as wide as the largest group: 128,000 by 64,000 for a vocabulary of
    # which half is one class. Segments are linear in the number of classes.
    count, shape = int(segments[-1]) + 1, ops.shape(logits)
    columns = ops.transpose(ops.reshape(logits, (-1, logits.shape[-1])))
    # The maximum of a group that is masked as a whole (-inf) is finite, the smallest number of float32: no NaN below.
    largest = ops.segment_max(columns, segments, num_segments=count)
    total = ops.segment_sum(ops.exp(columns - ops.take(largest, segments, axis=0)), segments, num_segments=count)
    return ops.reshape(ops.transpose(largest + ops.log(total)), (*shape[:-1], count))


def logits_of_prediction(tensor: Tensor, whose: str, purpose: str) -> Tensor:
    """Return the logits of a prediction: the input of a softmax, or the tensor itself.

    Args:
        tensor: Prediction of a model, shape `[batch, positions..., classes]`.
        whose: Beginning of the error, such as "The teacher's output".
        purpose: What needs logits, a clause for the error.

    Raises:
        ValueError: For the output of a sigmoid, as far as a graph shows it.
    """
    if tf.is_tensor(tensor) and tf.is_symbolic_tensor(tensor) and spec_of(tensor).source == "Sigmoid":
        raise ValueError(
            f"{whose} ends in a sigmoid, but {purpose} of a softmax. Use a model without the sigmoid: "
            "keras_distill.without_softmax(model)."
        )
    return as_logits(tensor)
