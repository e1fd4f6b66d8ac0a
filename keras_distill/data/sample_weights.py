"""Sample weights of outputs, examples and positions."""

from typing import Any

import keras
from keras import ops

from keras_distill.models.masking import expand_to_rank, mean_over_positions
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


def weights_of_tap(sample_weight: Structure, tap: str) -> Tensor | None:
    """Return the sample weights of the output that a tap selects, or else the mean of those of all outputs.

    Args:
        sample_weight: Sample weights, as passed to `fit`, or None.
        tap: Tap of a `Term`.
    """
    weights = entry_of_tap(sample_weight, tap)
    if weights is None and sample_weight is not None:
        leaves = [ops.cast(leaf, "float32") for leaf in keras.tree.flatten(sample_weight) if leaf is not None]
        weights = sum(mean_over_positions(leaf) for leaf in leaves) / len(leaves)
    return weights


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


def split_weights(weights: Tensor | None, mask: Tensor | None, rank: int) -> tuple[Tensor | None, Tensor | None]:
    """Split sample weights into `(weight of each position or None, weight of each example or None)`.

    The product of the two, averaged over the positions of an example, equals the product of Keras' sample weights and
    a loss per position.

    Args:
        weights: Sample weights, shape `[batch]`, `[batch, 1]` or `[batch, positions...]`, or None.
        mask: Mask of the positions that count, shape `[batch, positions...]`, or None if all count.
        rank: Rank of the compared activation.
    """
    position_weight = None if mask is None else ops.cast(mask, "float32")
    if weights is None:
        return position_weight, None
    weights = ops.cast(weights, "float32")
    if len(weights.shape) > 1 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    example_weight = mean_over_positions(weights, position_weight if len(weights.shape) > 1 else None)
    if 1 < len(weights.shape) < rank:
        position_weight = weights if position_weight is None else weights * position_weight
    return position_weight, example_weight
