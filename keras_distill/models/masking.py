"""Which positions and examples of an activation count, and how much."""

import functools

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
    weight = ops.broadcast_to(
        ops.cast(expand_to_rank(position_weight, len(values.shape)), values.dtype), ops.shape(values)
    )
    return ops.divide_no_nan(ops.sum(values * weight, axis=axes), ops.sum(weight, axis=axes))


def expand_to_rank(tensor, rank):
    """The tensor with axes of length 1 behind its own, up to `rank`."""
    return ops.reshape(tensor, (*ops.shape(tensor), *[1] * (rank - len(tensor.shape))))


def joint_masks(student, teacher, given=None):
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
        masks = [_joint(mask, given) if mask_fits(given, tensor) else mask for mask, tensor in zip(masks, pair)]
    present = [mask for mask in masks if mask is not None]
    if not present or not all(mask_fits(mask, tensor) for mask in present for tensor in pair):
        return tuple(masks)
    joint = functools.reduce(_joint, present)
    return joint, joint


def zero_padding(activation, mask):
    """The activation with 0 at the positions that its mask leaves out."""
    if mask is None or not mask_fits(mask, activation):
        return activation
    return ops.where(expand_to_rank(mask, len(activation.shape)), activation, 0.0)


def mask_fits(mask, activation):
    """Whether the axes of a mask are the first ones of an activation; only shapes are looked at."""
    positions = activation.shape[1 : len(mask.shape)]
    return len(mask.shape) < len(activation.shape) and all(
        m is None or a is None or m == a for m, a in zip(mask.shape[1:], positions)
    )


def _own_mask(tensor):
    mask = getattr(tensor, "_keras_mask", None)
    return ops.cast(mask, "bool") if mask is not None and mask_fits(mask, tensor) else None


def _joint(first, second):
    return second if first is None else ops.logical_and(first, second)
