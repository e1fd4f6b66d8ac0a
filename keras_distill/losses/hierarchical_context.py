"""Hierarchical context loss (HCL) of knowledge review (ReviewKD)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import shapes_match
from keras_distill.losses.maths import float32
from keras_distill.models.masking import expand_to_rank, mean_over_positions
from keras_distill.models.resampling import adaptive_average_pool
from keras_distill.types import Structure, Tensor

SIZES = (4, 2, 1)


def hierarchical_context(student: Tensor, teacher: Tensor, position_weight: Tensor | None = None) -> Tensor:
    """Compute the mean squared difference of two feature maps at several resolutions.

    ```
    loss = (mse(s, t) + sum_j 2^-j mse(pool_j(s), pool_j(t))) / (1 + sum_j 2^-j),  j = 1, 2, ...
    pool_j = adaptive average pooling to the j-th of the sizes 4, 2, 1 that are less than the height
    ```

    Sizes are compared with the height alone, as in the authors' code.

    Args:
        student: Feature maps after the head, shape `[batch, height, width, channels]`.
        teacher: Feature maps, the same shape.
        position_weight: Weight of each position, shape `[batch, height, width]`. A position of weight 0 is excluded at
            every resolution, but the pooling grid covers it. Defaults to None: all positions count equally.

    Returns:
        Square of the features' unit, shape `[batch]`.

    Reference:
        Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044
    """
    student, teacher = float32(student, teacher)
    difference, weight = student - teacher, None
    if position_weight is not None:
        weight = expand_to_rank(ops.cast(position_weight, "float32"), 4)
        weight = ops.broadcast_to(weight, (*ops.shape(difference)[:3], 1))
        difference = ops.where(weight > 0, difference, 0.0)
    loss = _mean_square(difference, weight)
    scale = total = 1.0
    # Pooling is linear, so the difference is pooled once instead of both maps.
    for size, is_less in ((size, size < ops.shape(student)[1]) for size in SIZES):
        if is_less is False:
            continue
        if is_less is True:
            factor = scale = scale / 2.0
        else:
            # The height is unknown before the first step.
            scale = ops.where(is_less, scale / 2.0, scale)
            factor = ops.where(is_less, scale, 0.0)
        total += factor
        if weight is None:
            loss += factor * _mean_square(_pool(difference, size))
        else:
            pooled_weight = _pool(weight, size)
            pooled = ops.divide_no_nan(_pool(weight * difference, size), pooled_weight)
            loss += factor * _mean_square(pooled, pooled_weight)
    return loss / total


def _pool(maps, size):
    return adaptive_average_pool(adaptive_average_pool(maps, 1, size), 2, size)


def _mean_square(maps, weight=None):
    weight = None if weight is None else ops.squeeze(weight, axis=-1)
    return mean_over_positions(ops.mean(ops.square(maps), axis=-1), weight)


@keras.saving.register_keras_serializable("keras_distill")
class HierarchicalContext(DistillationLoss):
    """Hierarchical context loss (HCL), the loss of knowledge review (ReviewKD).

    Compares feature maps at full size and average-pooled to 4x4, 2x2 and 1x1. A tuple of maps is compared with a tuple
    of the same length, level by level; the losses are summed, as in the paper. Position weights apply to the levels
    that have the size of the first one. ReviewKD uses it with a `Fusion` head, at weights of 0.6 to 8 on CIFAR-100 and
    1 on ImageNet. Maps of different shapes need a head.

    Reference:
        Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044

    Example:
    >>> student_levels, teacher_levels = ("block_1", "block_2"), ("block_2", "block_4")
    >>> term = Term(HierarchicalContext(), student=student_levels, teacher=teacher_levels, head=Fusion(), weight=5.0)
    """

    rank = 4
    takes_several = True

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        students, teachers = _levels(student_shape), _levels(teacher_shape)
        return len(students) == len(teachers) and all(shapes_match(s[1:], t[1:]) for s, t in zip(students, teachers))

    def compare(self, student: Structure, teacher: Structure, batch: Batch) -> Tensor:
        if not isinstance(student, tuple):
            return hierarchical_context(student, teacher, batch.position_weight)
        size = student[0].shape[1:3]
        return sum(
            hierarchical_context(s, t, batch.position_weight if s.shape[1:3] == size else None)
            for s, t in zip(student, teacher)
        )


def _levels(shape):
    return shape if isinstance(shape[0], (tuple, list)) else (shape,)
