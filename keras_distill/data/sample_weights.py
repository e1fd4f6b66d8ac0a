"""Sample weights of outputs, examples and positions."""

from typing import Any

import keras
from keras import ops

from keras_distill.models.masking import expand_to_rank
from keras_distill.types import Structure, Tensor


def entry_of_tap(structure: Structure, tap: str) -> Any:
    """Return the labels or sample weights of the output that a tap selects, e.g. `output[topic]`.

    Args:
        structure: Labels or sample weights, as passed to `fit`: a tensor, or a dictionary, list or tuple with an entry
            for each output.
        tap: Tap of a `Term`.

    Returns:
        The entry; the structure itself if it is a single tensor; None if no entry belongs to the tap.
    """
    if not keras.tree.is_nested(structure):
        return structure
    entry = tap.partition("[")[2].strip("]'\"")
    if isinstance(structure, dict):
        return structure.get(entry)
    return structure[int(entry)] if entry.isdigit() and int(entry) < len(structure) else None


def multiply_weights(sample_weight: Tensor, weights: Tensor) -> Tensor:
    """Multiply weights of examples, or of positions, by sample weights of the same rank or a lower one.

    Args:
        sample_weight: Shape `[batch]`, `[batch, 1]` or `[batch, positions...]`.
        weights: float32, shape `[batch, positions...]`.

    Returns:
        float32, the shape of `weights`.
    """
    sample_weight = ops.cast(sample_weight, "float32")
    if len(sample_weight.shape) > 1 and sample_weight.shape[-1] == 1 and len(sample_weight.shape) > len(weights.shape):
        sample_weight = ops.squeeze(sample_weight, axis=-1)
    return expand_to_rank(sample_weight, len(weights.shape)) * weights
