"""Shape checks that several losses share."""


def check_classes(loss, student_shape, teacher_shape):
    """Refuses logits of a single class."""
    if len(student_shape) < 2 or student_shape[-1] == 1:
        raise ValueError(
            f"{loss} compares two classes or more; over a single one the softmax is always 1. Use a BinaryKD. "
            f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
        )


def check_positions(loss, student_shape, teacher_shape):
    """Refuses activations without positions."""
    if len(student_shape) < 3:
        raise ValueError(
            f"{loss} compares activations of rank 3 or more: it needs positions. "
            f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
        )
