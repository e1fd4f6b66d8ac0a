"""Missing labels."""

import keras
from keras import ops

UNLABELLED = -1


def label_mask(labels, outputs):
    """Which examples, or positions of them, carry a label.

    One batch may mix labelled and unlabelled examples. A missing label is `UNLABELLED` (-1) among class numbers, and
    NaN among floats; a one-hot or real-valued label is missing when its whole last axis is.

    Args:
        labels: Shape `[batch, ...]`.
        outputs: What the labels are compared with; only its shape is looked at.

    Returns:
        Booleans, shape `[batch, positions...]`: that of `labels`, less the axis that holds one label's components.
    """
    shape, rank = labels.shape, len(labels.shape)
    present = ops.ones_like(labels, dtype="bool")
    if keras.backend.is_float_dtype(labels.dtype):
        present = ops.logical_not(ops.isnan(labels))
    if rank and outputs.shape[-1] != 1 and (rank < len(outputs.shape) or shape[-1] == 1):
        present = ops.logical_and(present, ops.not_equal(labels, ops.cast(UNLABELLED, labels.dtype)))
    return ops.any(present, axis=-1) if 1 < rank == len(outputs.shape) else present
