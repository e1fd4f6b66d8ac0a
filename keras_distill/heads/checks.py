"""Shape checks and bilinear resizing that several heads use."""

from keras import ops

from keras_distill.types import Tensor


def needs_resize(student_shape: tuple, teacher_shape: tuple) -> bool:
    """Return True if the heights or widths of two feature maps are known and differ.

    Args:
        student_shape: Shape `(batch, height, width, channels)` of the student's feature map.
        teacher_shape: Shape of the teacher's feature map.
    """
    student_size, teacher_size = student_shape[1:3], teacher_shape[1:3]
    return None not in (*student_size, *teacher_size) and student_size != teacher_size


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize feature maps by bilinear interpolation.

    Args:
        maps: Shape `[batch, height, width, channels]`.
        size: The new height and width.

    Returns:
        The resized feature maps.
    """
    return ops.image.resize(maps, size, interpolation="bilinear", data_format="channels_last")


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
