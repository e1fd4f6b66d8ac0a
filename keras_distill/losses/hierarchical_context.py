"""Hierarchical context loss (HCL) of knowledge review: maps at several resolutions."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.maths import adaptive_average_pool, float32
from keras_distill.models.masking import expand_to_rank, mean_over_positions

SIZES = (4, 2, 1)


def hierarchical_context(student, teacher, position_weight=None):
    """Mean squared difference of two maps at full size and averaged down to 4x4, 2x2 and 1x1.

    ```
    loss = (mse(s, t) + sum_j 2^-j mse(pool_j(s), pool_j(t))) / (1 + sum_j 2^-j),  j = 1, 2, ...
    pool_j = adaptive average pooling to the j-th of the sizes 4, 2, 1 that are less than the height
    ```

    That only the height decides follows the authors' code.

    Args:
        student: Maps after the head, shape `[batch, height, width, channels]`; height and width must be known.
        teacher: Maps, the same shape.
        position_weight: As in a `Batch`. A position without weight counts nowhere, but has its place in the grid.

    Returns:
        The square of the features' unit, shape `[batch]`.

    Reference:
        Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044
    """
    student, teacher = float32(student, teacher)
    difference, weight = student - teacher, None
    if position_weight is not None:
        weight = expand_to_rank(ops.cast(position_weight, "float32"), 4)
        weight = ops.broadcast_to(weight, (*ops.shape(difference)[:3], 1))
        difference = ops.where(weight > 0, difference, 0.0)
    loss = _mean_of_squares(difference, weight)
    share = total = 1.0
    # Pooling is linear: what is pooled may be the difference.
    for size in SIZES:
        if size >= student.shape[1]:
            continue
        share /= 2.0
        total += share
        if weight is None:
            loss += share * _mean_of_squares(_pooled(difference, size))
        else:
            pooled = _pooled(weight, size)
            loss += share * _mean_of_squares(ops.divide_no_nan(_pooled(weight * difference, size), pooled), pooled)
    return loss / total


def _pooled(maps, size):
    return adaptive_average_pool(adaptive_average_pool(maps, 1, size), 2, size)


def _mean_of_squares(maps, weight=None):
    weight = None if weight is None else ops.squeeze(weight, axis=-1)
    return mean_over_positions(ops.mean(ops.square(maps), axis=-1), weight)


@keras.saving.register_keras_serializable("keras_distill")
class HierarchicalContext(DistillationLoss):
    """`hierarchical_context` as a loss for a `Term`. Maps of unlike shapes need a head.

    A tuple of maps is compared with a tuple of as many, level by level, and the losses are added up, as in the paper. A
    weight of positions counts at those levels that have the first one's size.
    """

    rank = 4
    takes_several = True

    def comparable(self, student_shape, teacher_shape):
        students, teachers = _levels(student_shape), _levels(teacher_shape)
        return len(students) == len(teachers) and all(shapes_match(s[1:], t[1:]) for s, t in zip(students, teachers))

    def build(self, student_shape, teacher_shape):
        if any(None in shape[1:3] for shape in (*_levels(student_shape), *_levels(teacher_shape))):
            raise ValueError(
                "HierarchicalContext needs maps of known height and width. "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
            )

    def compare(self, student, teacher, batch):
        if not isinstance(student, tuple):
            return hierarchical_context(student, teacher, batch.position_weight)
        size = student[0].shape[1:3]
        return sum(
            hierarchical_context(s, t, batch.position_weight if s.shape[1:3] == size else None)
            for s, t in zip(student, teacher)
        )


def _levels(shape):
    return shape if isinstance(shape[0], (tuple, list)) else (shape,)
