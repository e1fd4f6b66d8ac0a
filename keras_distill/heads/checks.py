"""What several heads share."""

from keras import ops


def needs_resize(student_shape, teacher_shape):
    """Whether the heights or widths of two maps are known to differ; an unknown one counts as equal."""
    sizes = student_shape[1:3], teacher_shape[1:3]
    return None not in (*sizes[0], *sizes[1]) and sizes[0] != sizes[1]


def resize(maps, size):
    """Bilinear interpolation of maps of shape `[batch, height, width, channels]` to `size`."""
    return ops.image.resize(maps, size, interpolation="bilinear", data_format="channels_last")


def check_maps(head, student_shape, teacher_shape, sized=False):
    """Refuses what is not a map with known channels and, where `sized`, known height and width."""
    shapes = student_shape, teacher_shape
    if any(len(shape) != 4 or None in (shape[1:] if sized else shape[-1:]) for shape in shapes):
        raise ValueError(
            f"{head} takes maps of shape [batch, height, width, channels] with known "
            f"{'height, width and ' if sized else ''}channels. "
            f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
        )
