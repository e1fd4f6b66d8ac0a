"""Sample weights of outputs, examples and positions."""

import keras
from keras import ops

from keras_distill.models.masking import expand_to_rank, mean_over_positions


def entry_of_tap(structure, tap):
    """The labels or sample weights that belong to the output which a tap names, `output[topic]`.

    Returns:
        The entry; the structure itself if it is a tensor, None if no entry belongs to the tap.
    """
    if not keras.tree.is_nested(structure):
        return structure
    entry = tap.partition("[")[2].strip("]'\"")
    if isinstance(structure, dict):
        return structure.get(entry)
    return structure[int(entry)] if entry.isdigit() and int(entry) < len(structure) else None


def weights_of_tap(sample_weight, tap):
    """The sample weights of a term: those of the output it taps, else the mean over all outputs."""
    weights = entry_of_tap(sample_weight, tap)
    if weights is None and sample_weight is not None:
        leaves = [ops.cast(leaf, "float32") for leaf in keras.tree.flatten(sample_weight) if leaf is not None]
        weights = sum(mean_over_positions(leaf) for leaf in leaves) / len(leaves)
    return weights


def multiply_weights(sample_weight, weights):
    """Weights of examples, or of positions, times sample weights of a lower rank or the same.

    Args:
        sample_weight: Shape `[batch]`, `[batch, 1]` or `[batch, positions...]`.
        weights: float32, shape `[batch, positions...]`.

    Returns:
        float32, of the shape of `weights`.
    """
    sample_weight = ops.cast(sample_weight, "float32")
    if len(sample_weight.shape) > 1 and sample_weight.shape[-1] == 1 and len(sample_weight.shape) > len(weights.shape):
        sample_weight = ops.squeeze(sample_weight, axis=-1)
    return expand_to_rank(sample_weight, len(weights.shape)) * weights


def split_weights(weights, mask, rank):
    """Sample weights as `(weight of each position or None, weight of each example or None)`.

    Their product over an example's positions is what Keras would multiply a loss per position with.
    """
    of_position = None if mask is None else ops.cast(mask, "float32")
    if weights is None:
        return of_position, None
    weights = ops.cast(weights, "float32")
    if len(weights.shape) > 1 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    of_example = mean_over_positions(weights, of_position if len(weights.shape) > 1 else None)
    if 1 < len(weights.shape) < rank:
        of_position = weights if of_position is None else weights * of_position
    return of_position, of_example
