"""Relational knowledge distillation (RKD): distances and angles between examples."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, squared_distances, unit_vectors
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def distance_wise(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the Huber loss between the normalized distances of all pairs of examples (RKD-D).

    ```
    loss_i = 1/batch * sum_j huber(d_t[i, j] / mean(d_t) - d_s[i, j] / mean(d_s))
    d[i, j] = ||f_i - f_j||;  mean over pairs i != j
    ```

    Args:
        student: Embeddings, shape `[batch, dim]`.
        teacher: Embeddings, shape `[batch, dim]`; `dim` may differ.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068, equations 5 to 7
    """
    student, teacher = float32(student, teacher)
    return keras.losses.huber(_distances(teacher), _distances(student))


def angle_wise(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the Huber loss between the angles of all triplets of examples (RKD-A).

    ```
    loss_i = 1/batch^2 * sum_jk huber(cos_t[i, j, k] - cos_s[i, j, k])
    cos[i, j, k] = <e_ij, e_ik>;  e_ij = (f_j - f_i) / ||f_j - f_i||
    ```

    Needs memory for `batch^3` numbers. The cosine of a triplet that contains one example twice, or two equal ones, is 0
    or 1 in both networks and has no gradient.

    Args:
        student: Embeddings, shape `[batch, dim]`.
        teacher: Embeddings, shape `[batch, dim]`; `dim` may differ.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068, equations 8 to 10
    """
    student, teacher = float32(student, teacher)
    return ops.mean(keras.losses.huber(_cosines(teacher), _cosines(student)), axis=-1)


def _distances(features):
    square = squared_distances(features)
    # sqrt has no gradient at 0, the distance of every example to itself and to its duplicates.
    positive_square = ops.where(square > 0, square, 1.0)
    distances = ops.where(square > 0, ops.sqrt(positive_square), 0.0)
    # Equal examples count in the mean, as in the authors' code: the loss stays continuous where two examples merge.
    batch = ops.cast(ops.shape(features)[0], "float32")
    return ops.divide_no_nan(distances, ops.divide_no_nan(ops.sum(distances), batch * (batch - 1)))


def _cosines(features):
    directions = unit_vectors(ops.expand_dims(features, 0) - ops.expand_dims(features, 1))
    return ops.matmul(directions, ops.swapaxes(directions, 1, 2))


@keras.saving.register_keras_serializable("keras_distill")
class RelationalKD(DistillationLoss):
    """Relational knowledge distillation loss (RKD): weighted sum of distances and angles. No head is needed.

    Means are over all pairs and triplets, including those that contain an example twice, as in the authors' code. The
    angles need memory for `batch^3` numbers; `angle=0` leaves them out. Compares all examples of the global batch under
    `tf.distribute`; see `Term(across_replicas=)`.

    Args:
        distance: Weight of `distance_wise`, >= 0, a number or a schedule; 0 leaves it out. 25 in the paper. Defaults to
            25.0.
        angle: Weight of `angle_wise`, >= 0, a number or a schedule; 0 leaves it out. 50 in the paper. Defaults to 50.0.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `distance` or `angle` is not a number >= 0 or a schedule, or if both are 0.

    Reference:
        Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068

    Example:
    >>> term = Term(RelationalKD(distance=25.0, angle=50.0), student="features", teacher="features")
    """

    relational = True
    rank = 2

    def __init__(self, distance: ScheduleLike = 25.0, angle: ScheduleLike = 50.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.distance = check_positive(distance, "distance", zero=True)
        self.angle = check_positive(angle, "angle", zero=True)
        if self.distance == 0 and self.angle == 0:
            raise ValueError(
                "`distance` or `angle` must be > 0, such as RelationalKD(distance=25.0, angle=0.0). "
                "Received: distance=0, angle=0"
            )

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return len(student_shape) == len(teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        parts = (self.distance, distance_wise), (self.angle, angle_wise)
        return sum(value_at(weight, batch.step) * part(student, teacher) for weight, part in parts if weight != 0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "distance": self.distance, "angle": self.angle}
