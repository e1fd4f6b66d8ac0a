"""What several teachers do with predictions."""

import numbers

import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.models.specs import spec_of


def class_map(classes):
    """The teacher classes of each student class, as a tuple of tuples.

    Args:
        classes: As for `ModelTeacher`.

    Raises:
        ValueError: If it is no such list, a student class has no teacher class, or a teacher class comes twice.
    """
    if not isinstance(classes, (list, tuple, range, np.ndarray)) or not len(classes):
        raise ValueError(
            "`classes` must be a list that says for each student class which teacher class it is, or a list of those "
            f"that it is made of. Received: {classes!r}"
        )
    groups = tuple(tuple(c) if isinstance(c, (list, tuple, range, np.ndarray)) else (c,) for c in classes)
    empty = [number for number, group in enumerate(groups) if not group]
    if empty:
        raise ValueError(f"`classes` has no teacher class for the student classes {empty}.")
    named = [c for group in groups for c in group]
    strange = [c for c in named if not isinstance(c, numbers.Integral) or isinstance(c, bool) or c < 0]
    if strange:
        raise ValueError(f"`classes` must name teacher classes by their numbers, 0 or more. Received: {strange}.")
    twice = sorted({int(c) for c in named if named.count(c) > 1})
    if twice:
        raise ValueError(f"`classes` may name each teacher class once. Named more than once: {twice}.")
    return tuple(tuple(int(c) for c in group) for group in groups)


def map_logits(logits, groups):
    """Logits of the student's classes, each the logarithm of the sum of its teacher classes' exponentials.

    Args:
        logits: Shape `[batch, positions..., teacher classes]`.
        groups: As `class_map` gives them.

    Returns:
        float32, shape `[batch, positions..., student classes]`; a Keras mask stays attached.

    Raises:
        ValueError: If the teacher has fewer classes than are named, or gives probabilities.
    """
    count = logits.shape[-1] if len(logits.shape) > 1 else 0
    beyond = [c for group in groups for c in group if count is not None and c >= count]
    if beyond:
        raise ValueError(
            f"`classes` names the teacher classes {beyond}, but the teacher's output of shape {tuple(logits.shape)} "
            f"has {count} classes, the first being 0."
        )
    check_logits(logits, "The teacher's output", "`classes` maps logits")
    width = max(len(group) for group in groups)
    # Short groups are filled up with a class that then counts for nothing.
    filled = np.array([[*group, *[group[0]] * (width - len(group))] for group in groups])
    counts = np.array([[place < len(group) for place in range(width)] for group in groups])
    found = ops.take(ops.cast(logits, "float32"), filled, axis=-1)
    result = ops.logsumexp(ops.where(counts, found, -np.inf), axis=-1) if width > 1 else found[..., 0]
    mask = _compat.keras_mask(logits)
    if mask is not None:
        _compat.set_keras_mask(result, mask)
    return result


def check_logits(tensor, whose, purpose):
    """Refuses probabilities, as far as a graph tells: when a distiller is made, not in an eager call.

    Args:
        tensor: What may be logits.
        whose: How the error begins, such as "The teacher's output".
        purpose: What needs logits, as a clause.
    """
    if tf.is_tensor(tensor) and tf.is_symbolic_tensor(tensor) and spec_of(tensor).probabilities:
        raise ValueError(
            f"{whose} ends in a {spec_of(tensor).source.lower()}, but {purpose}. Take a model that ends in the layer "
            "before it, or give that layer no activation."
        )
