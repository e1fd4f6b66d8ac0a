"""Shape checks that several heads use."""


def needs_resize(student_shape: tuple, teacher_shape: tuple) -> bool:
    """Return True if the lengths of the positions of two activations are known and differ.

    Args:
        student_shape: Shape `(batch, positions..., channels)` of the student's activation.
        teacher_shape: Shape of the teacher's activation.
    """
    student_size, teacher_size = student_shape[1:-1], teacher_shape[1:-1]
    return None not in (*student_size, *teacher_size) and student_size != teacher_size


def check_maps(head: str, student_shape: tuple, teacher_shape: tuple, sized: bool = False) -> None:
    """Raise if either shape is not that of a feature map with known channels.

    Args:
        head: Name of the head, for the error.
        student_shape: Shape of the student's activation.
        teacher_shape: Shape of the teacher's activation.
        sized: True to require known height and width, too. Defaults to False.

    Raises:
        ValueError: With both shapes.
    """
    shapes = student_shape, teacher_shape
    if any(len(shape) != 4 or None in (shape[1:] if sized else shape[-1:]) for shape in shapes):
        raise ValueError(
            f"{head} takes feature maps of shape [batch, height, width, channels] with known "
            f"{'height, width and ' if sized else ''}channels. "
            f"Received: student shape {student_shape}, teacher shape {teacher_shape}"
        )


def check_positions(head: str, student_shape: tuple, teacher_shape: tuple) -> None:
    """Raise unless both shapes are those of series, feature maps or volumes of one rank, with known channels.

    Args:
        head: Name of the head, for the error.
        student_shape: Shape of the student's activation.
        teacher_shape: Shape of the teacher's activation.

    Raises:
        ValueError: With both shapes.
    """
    shapes = student_shape, teacher_shape
    if len(student_shape) != len(teacher_shape) or any(len(s) not in (3, 4, 5) or s[-1] is None for s in shapes):
        raise ValueError(
            f"{head} takes series, feature maps or volumes of shape [batch, positions..., channels] with known "
            f"channels and 1 to 3 axes of positions. Received: student shape {student_shape}, teacher shape "
            f"{teacher_shape}"
        )
