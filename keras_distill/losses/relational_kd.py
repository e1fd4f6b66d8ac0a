"""Relational knowledge distillation (RKD): distances and angles among the examples of a batch."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, squared_distances, unit_vectors
from keras_distill.schedules import check_positive, value_at


def distance_wise(student, teacher):
    """Difference of the distances between pairs of examples.

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


def angle_wise(student, teacher):
    """Difference of the angles within triplets of examples.

    ```
    loss_i = 1/batch^2 * sum_jk huber(cos_t[i, j, k] - cos_s[i, j, k])
    cos[i, j, k] = <e_ij, e_ik>;  e_ij = (f_j - f_i) / ||f_j - f_i||
    ```

    Needs memory for `batch^3` numbers. The cosine of a triplet that names one example twice, or two equal ones, is 0
    or 1 in both networks and teaches nothing.

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
    # sqrt has no gradient at 0, where every example meets itself and its duplicates.
    positive_square = ops.where(square > 0, square, 1.0)
    distances = ops.where(square > 0, ops.sqrt(positive_square), 0.0)
    # Equal examples count in the mean, as they do in the authors' code: merging two examples moves nothing by a jump.
    batch = ops.cast(ops.shape(features)[0], "float32")
    return ops.divide_no_nan(distances, ops.divide_no_nan(ops.sum(distances), batch * (batch - 1)))


def _cosines(features):
    directions = unit_vectors(ops.expand_dims(features, 0) - ops.expand_dims(features, 1))
    return ops.matmul(directions, ops.swapaxes(directions, 1, 2))


@keras.saving.register_keras_serializable("keras_distill")
class RelationalKD(DistillationLoss):
    """Weighted sum of `distance_wise` and `angle_wise`, as a loss for a `Term`. Needs no head.

    Means run over all pairs and triplets, those with an example twice included, as in the authors' code.

    Args:
        distance: Weight of the distances, a number or a schedule, default 25; 0 leaves them out.
        angle: Weight of the angles, a number or a schedule, default 50; 0 leaves them out.
    """

    relational = True
    rank = 2

    def __init__(self, distance=25.0, angle=50.0, **kwargs):
        super().__init__(**kwargs)
        self.distance = check_positive(distance, "distance", zero=True)
        self.angle = check_positive(angle, "angle", zero=True)
        if self.distance == 0 and self.angle == 0:
            raise ValueError("`distance` and `angle` are both 0: nothing is left of RelationalKD.")

    def comparable(self, student_shape, teacher_shape):
        return len(student_shape) == len(teacher_shape)

    def compare(self, student, teacher, batch):
        parts = (self.distance, distance_wise), (self.angle, angle_wise)
        return sum(value_at(weight, batch.step) * part(student, teacher) for weight, part in parts if weight != 0)

    def get_config(self):
        return {**super().get_config(), "distance": self.distance, "angle": self.angle}
