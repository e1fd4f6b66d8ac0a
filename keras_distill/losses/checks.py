"""Shape checks shared by several losses."""

from typing import Any, TypeAlias

# The shape of an activation, batch axis included; a tuple of shapes for a loss that takes several activations.
Shape: TypeAlias = tuple[Any, ...]


def shapes_match(student_shape: Shape, teacher_shape: Shape) -> bool:
    """Return True if two shapes are equal. An unknown length (None) matches any length."""
    return len(student_shape) == len(teacher_shape) and all(
        s is None or t is None or s == t for s, t in zip(student_shape, teacher_shape)
    )


def check_classes(loss: str, student_shape: Shape, teacher_shape: Shape) -> None:
    """Raise ValueError for logits of a single class.

    Args:
        loss: Class name of the loss, for the error.
        student_shape: Shape of the student's logits, batch axis included.
        teacher_shape: Shape of the teacher's logits, batch axis included.

    Raises:
        ValueError: If the logits have no class axis or a class axis of length 1.
    """
    if len(student_shape) < 2 or student_shape[-1] == 1:
        raise ValueError(
            f"{loss} compares two classes or more: the softmax of a single logit is always 1. Use `BinaryKD()`. "
            f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
        )


def check_positions(loss: str, student_shape: Shape, teacher_shape: Shape) -> None:
    """Raise ValueError for activations without positions.

    Args:
        loss: Class name of the loss, for the error.
        student_shape: Shape of the student's activation, batch axis included.
        teacher_shape: Shape of the teacher's activation, batch axis included.

    Raises:
        ValueError: If the rank is less than 3.
    """
    if len(student_shape) < 3:
        raise ValueError(
            f"{loss} compares activations of rank 3 or more: it needs positions. "
            f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
        )


def as_shape_pair(shape: Shape) -> Shape:
    """Return the two shapes of a loss that takes pairs, a single one twice; raise ValueError for more than two."""
    if not isinstance(shape[0], (tuple, list)):
        return (shape, shape)
    if len(shape) != 2:
        raise ValueError(f"The loss compares one activation or a pair. Received: {len(shape)}. Make a term per pair.")
    return shape
