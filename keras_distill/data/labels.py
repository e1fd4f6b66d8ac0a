"""Missing labels."""

import keras
from keras import ops

from keras_distill.types import Tensor

# Class index of an example without a label.
UNLABELLED = -1


def label_mask(labels: Tensor, outputs: Tensor) -> Tensor:
    """Return a mask of the examples, or of their positions, that have a label.

    A batch may mix labeled and unlabeled examples. A missing label is `UNLABELLED` (-1) for class indices, and NaN for
    floats. A one-hot or real-valued label is missing if all components of its last axis are. Booleans and unsigned
    integers cannot be missing.

    Example:
    >>> mask = label_mask(np.array([2, UNLABELLED, 0]), np.zeros((3, 4), "float32"))
    >>> np.array(mask).tolist()
    [True, False, True]

    Args:
        labels: Labels, shape `[batch, ...]`.
        outputs: Outputs that the labels are compared with, shape `[batch, ..., channels]`; only the shape matters.

    Returns:
        Booleans, shape `[batch, positions...]`: the shape of `labels` without the axis of the components of one label.
    """
    shape, rank = labels.shape, len(labels.shape)
    present = ops.ones_like(labels, dtype="bool")
    if keras.backend.is_float_dtype(labels.dtype):
        present = ops.logical_not(ops.isnan(labels))
    # Cast to a dtype without a sign, -1 would be an ordinary value: True, or 255.
    signed = not keras.backend.standardize_dtype(labels.dtype).startswith(("bool", "uint"))
    # Only class indices use -1, which is an ordinary value of a regression target.
    if signed and rank and outputs.shape[-1] != 1 and (rank < len(outputs.shape) or shape[-1] == 1):
        present = ops.logical_and(present, ops.not_equal(labels, ops.cast(UNLABELLED, labels.dtype)))
    return ops.any(present, axis=-1) if 1 < rank == len(outputs.shape) else present
