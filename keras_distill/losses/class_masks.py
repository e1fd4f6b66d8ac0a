"""Logits that mask a class: -inf, -1e9 and the smallest numbers of float16 and float32.

A class that both models mask is left out. A class that only one model masks has the probability 0 in that model. Where
a divergence is then infinite, the logarithm of the ratio of the two probabilities is limited to 100 nats.
"""

import tensorflow as tf
from keras import ops

from keras_distill.losses.maths import flatten_positions, float32
from keras_distill.types import Tensor

# Replaces each logit that masks a class. Its probability is exactly 0 at any temperature, and differences and quotients
# of two are finite, while those of -inf are NaN.
MASKED = -1e30
# A lower logit masks its class. The smallest number of float16 is -65504; logits of a model are far higher.
_THRESHOLD = -6e4


def finite_logits(*logits: Tensor) -> list[Tensor]:
    """Cast logits to float32 and replace those that mask a class by `MASKED`, which passes no gradient.

    NaN and +inf remain, so that a model that diverged is not taken for one with masks.
    """
    return [_replace_masked(x) for x in float32(*logits)]


@tf.custom_gradient
def _replace_masked(logits):
    # The gradient that TensorFlow makes of `where` has a dozen operations.
    masked = is_masked(logits)
    return ops.where(masked, MASKED, logits), lambda upstream: ops.where(masked, 0.0, upstream)


def is_masked(logits: Tensor) -> Tensor:
    """Return which classes are masked, booleans of the shape of the logits."""
    return logits < _THRESHOLD


def classes_left(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 for each class that student or teacher leaves unmasked, 0 for the others.

    Args:
        student: Logits, float32, shape `[batch, positions..., classes]`.
        teacher: Logits, float32, shape `[batch, positions..., classes]`.

    Returns:
        float32, shape `[batch, positions..., classes]`.
    """
    return 1.0 - ops.cast(ops.logical_and(is_masked(student), is_masked(teacher)), "float32")


def columns_left(left: Tensor, position_weight: Tensor | None) -> Tensor:
    """Return 1 for each class that is left at one position or more, 0 for the others.

    Args:
        left: Result of `classes_left`.
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions, or None.

    Returns:
        float32, shape `[classes]`.
    """
    rows, weight = flatten_positions(left, position_weight)
    rows = rows if weight is None else rows * weight
    return ops.cast(ops.max(rows, axis=0) > 0, "float32")


def mean_over_classes(values: Tensor, left: Tensor) -> Tensor:
    """Return the mean over the classes that are left; 0 if none is.

    Args:
        values: Shape `[..., classes]`, 0 for the classes that are not left.
        left: Shape `[..., classes]`, 1 for the classes that are left and 0 for the others.

    Returns:
        Shape `[...]`.
    """
    return ops.divide_no_nan(ops.sum(values, axis=-1), ops.sum(left, axis=-1))
