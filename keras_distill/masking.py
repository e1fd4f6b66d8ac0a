"""Which positions and examples of an activation count, and how much."""

import functools

import keras
from keras import ops


def mean_over_positions(values, position_weight=None):
    """One value per example: the mean over its positions, padded ones left out.

    Args:
        values: Shape `[batch]` or `[batch, positions...]`.
        position_weight: Shape `[batch, positions...]`, of the rank of `values` or less; 0 leaves a position out. None
            counts all alike.

    Returns:
        Shape `[batch]`; 0 for an example in which no position counts.
    """
    axes = tuple(range(1, len(values.shape)))
    if not axes:
        return values
    if position_weight is None:
        return ops.mean(values, axis=axes)
    weight = ops.broadcast_to(ops.cast(with_rank(position_weight, len(values.shape)), values.dtype), ops.shape(values))
    return ops.divide_no_nan(ops.sum(values * weight, axis=axes), ops.sum(weight, axis=axes))


def with_rank(tensor, rank):
    """The tensor with axes of length 1 behind its own, up to `rank`."""
    return ops.reshape(tensor, (*ops.shape(tensor), *[1] * (rank - len(tensor.shape))))


def masks_of(student, teacher, given=None):
    """Which positions of two activations count: a position is left out of both if either model pads it.

    Args:
        student: Shape `[batch, positions..., channels]`, as the model returned it; its Keras mask is heeded.
        teacher: Likewise.
        given: A further mask, of shape `[batch, positions...]`, for those activations that it fits.

    Returns:
        Two booleans of shape `[batch, positions...]`, each None if nothing is left out. They differ where the models
        have positions of their own.
    """
    pair = student, teacher
    masks = [_own_mask(tensor) for tensor in pair]
    if given is not None:
        given = ops.cast(given, "bool")
        masks = [_joint(mask, given) if fits(given, tensor) else mask for mask, tensor in zip(masks, pair)]
    present = [mask for mask in masks if mask is not None]
    if not present or not all(fits(mask, tensor) for mask in present for tensor in pair):
        return tuple(masks)
    joint = functools.reduce(_joint, present)
    return joint, joint


def without_padding(activation, mask):
    """The activation with 0 at the positions that its mask leaves out."""
    if mask is None or not fits(mask, activation):
        return activation
    return ops.where(with_rank(mask, len(activation.shape)), activation, 0.0)


def fits(mask, activation):
    """Whether the axes of a mask are the first ones of an activation; only shapes are looked at."""
    positions = activation.shape[1 : len(mask.shape)]
    return len(mask.shape) < len(activation.shape) and all(
        m is None or a is None or m == a for m, a in zip(mask.shape[1:], positions)
    )


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


def weighted(sample_weight, weights):
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
    return with_rank(sample_weight, len(weights.shape)) * weights


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


def _own_mask(tensor):
    mask = getattr(tensor, "_keras_mask", None)
    return ops.cast(mask, "bool") if mask is not None and fits(mask, tensor) else None


def _joint(first, second):
    return second if first is None else ops.logical_and(first, second)
