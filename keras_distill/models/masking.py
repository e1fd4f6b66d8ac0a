"""Padding masks, and means over the positions that count."""

from keras import ops

from keras_distill import _compat
from keras_distill.models.resampling import resize_weights
from keras_distill.types import Tensor


def mean_over_positions(values: Tensor, position_weight: Tensor | None = None) -> Tensor:
    """Return the weighted mean over the positions of each example.

    Args:
        values: Shape `[batch]` or `[batch, positions...]`.
        position_weight: Weights >= 0, shape `[batch, positions...]`, of the rank of `values` or a lower one; 0 for
            padding. At the rank of `values`, weights of other positions are resized by area. None weights all positions
            alike. Defaults to None.

    Returns:
        Shape `[batch]`; 0 for an example whose positions all have the weight 0.
    """
    axes = tuple(range(1, len(values.shape)))
    if not axes:
        return values
    if position_weight is None:
        return ops.mean(values, axis=axes)
    weight = ops.cast(expand_to_rank(position_weight, len(values.shape)), values.dtype)
    if len(position_weight.shape) == len(values.shape) and 1 not in weight.shape[1:]:
        weight = resize_weights(weight, ops.shape(values)[1:])
    weight = ops.broadcast_to(weight, ops.shape(values))
    return ops.divide_no_nan(ops.sum(values * weight, axis=axes), ops.sum(weight, axis=axes))


def expand_to_rank(tensor: Tensor, rank: int) -> Tensor:
    """Append axes of length 1 to a tensor until it has the given rank."""
    missing = rank - len(tensor.shape)
    return ops.reshape(tensor, (*ops.shape(tensor), *[1] * missing)) if missing > 0 else tensor


def joint_masks(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
    """Return masks of the positions of two activations that are compared.

    A position that either model masks is left out of both, if the positions of the two correspond.

    Args:
        student: Shape `[batch, positions..., channels]`, with the Keras mask that the model attached, if any.
        teacher: Shape `[batch, positions..., channels]`, with the Keras mask that the model attached, if any.
        mask: Further mask, shape `[batch, positions...]`, for the activations of that shape. Defaults to None.

    Returns:
        Masks for student and teacher, booleans of shape `[batch, positions...]`, or None if no position is left out.
        The two are equal unless the models have different positions.
    """
    student_mask, teacher_mask = _mask_of(student), _mask_of(teacher)
    if mask is not None:
        mask = ops.cast(mask, "bool")
        student_mask = _combine(student_mask, mask) if mask_fits(mask, student) else student_mask
        teacher_mask = _combine(teacher_mask, mask) if mask_fits(mask, teacher) else teacher_mask
    # Masks are shared if each fits both activations, i.e. if the models have the same positions.
    masks = [m for m in (student_mask, teacher_mask) if m is not None]
    if not masks or not all(mask_fits(m, activation) for m in masks for activation in (student, teacher)):
        return student_mask, teacher_mask
    joint = masks[0] if len(masks) == 1 else _combine(*masks)
    return joint, joint


def separate_masks(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
    """Return masks of two activations whose positions do not correspond; see `joint_masks`.

    Args:
        student: Shape `[batch, positions..., channels]`, with the Keras mask that the model attached, if any.
        teacher: Shape `[batch, positions..., channels]`, with the Keras mask that the model attached, if any.
        mask: Further mask of the student's positions, shape `[batch, positions...]`. Defaults to None.
    """
    student_mask = _mask_of(student)
    if mask is not None and mask_fits(mask, student):
        student_mask = _combine(student_mask, ops.cast(mask, "bool"))
    return student_mask, _mask_of(teacher)


def zero_padding(activation: Tensor, mask: Tensor | None) -> Tensor:
    """Return the activation with zeros at the masked positions.

    Args:
        activation: Shape `[batch, positions..., channels]`.
        mask: Booleans, shape `[batch, positions...]`, False for padding; None, or a mask of another shape, leaves the
            activation unchanged.
    """
    if mask is None or not mask_fits(mask, activation):
        return activation
    # `where`, since a product with 0 would keep NaN and infinity of the padding.
    return ops.where(expand_to_rank(mask, len(activation.shape)), activation, 0.0)


def mask_fits(mask: Tensor, activation: Tensor) -> bool:
    """Return whether the axes of a mask are the first axes of an activation; only static shapes are compared."""
    positions = activation.shape[1 : len(mask.shape)]
    return len(mask.shape) < len(activation.shape) and all(
        m is None or a is None or m == a for m, a in zip(mask.shape[1:], positions)
    )


def _mask_of(tensor: Tensor) -> Tensor | None:
    mask = _compat.keras_mask(tensor)
    return ops.cast(mask, "bool") if mask is not None and mask_fits(mask, tensor) else None


def _combine(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else ops.logical_and(first, second)
