"""Relational knowledge distillation (RKD): distances and angles between examples."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, squared_distances
from keras_distill.models.chunking import in_chunks
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor

# Number of angles that are computed at a time.
_ANGLES = 2**18


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
    return keras.losses.huber(_normalized_distances(teacher), _normalized_distances(student))


def angle_wise(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the Huber loss between the angles of all triplets of examples (RKD-A).

    ```
    loss_i = 1/batch^2 * sum_jk huber(cos_t[i, j, k] - cos_s[i, j, k])
    cos[i, j, k] = <e_ij, e_ik>;  e_ij = (f_j - f_i) / ||f_j - f_i||
    ```

    Computed for a few examples `i` at a time. The cosine of a triplet that contains one example twice, or two equal
    ones, is 0 or 1 in both networks and has no gradient.

    Args:
        student: Embeddings, shape `[batch, dim]`.
        teacher: Embeddings, shape `[batch, dim]`; `dim` may differ.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068, equations 8 to 10
    """
    student, teacher = ([*_products_and_distances(features)] for features in float32(student, teacher))
    batch = ops.shape(student[0])[0]

    def loss_of_vertices(_, student, vertices):
        return ops.mean(keras.losses.huber(_cosines(*teacher, *vertices), _cosines(*student, *vertices)), axis=-1)

    # The angles at a few examples fit into the processor's cache, those at all do not.
    per_chunk = ops.maximum(_ANGLES // (batch * batch), 1)
    return in_chunks(loss_of_vertices, ops.zeros((batch, 1)), student, (ops.arange(batch),), per_chunk)


def _normalized_distances(features):
    _, distances = _products_and_distances(features)
    # Equal examples count in the mean, as in the authors' code: the loss stays continuous where two examples merge.
    batch = ops.cast(ops.shape(features)[0], "float32")
    return ops.divide_no_nan(distances, ops.divide_no_nan(ops.sum(distances), batch * (batch - 1)))


def _products_and_distances(features):
    """Return the products of the centered examples in float64, and their distances, both of shape `[batch, batch]`."""
    centered = ops.cast(features, "float64")
    centered = centered - ops.mean(centered, axis=0)
    # Differences of float32 products would lose small distances.
    products = ops.matmul(centered, ops.transpose(centered))
    norms = ops.diagonal(products)
    scale = ops.expand_dims(norms, 0) + ops.expand_dims(norms, 1)
    square = scale - 2.0 * products
    itself = ops.eye(ops.shape(features)[0], dtype="bool")
    # Equal examples, and those nearly so, need their exact differences.
    close = ops.any(ops.logical_and(square <= 1e-9 * scale, ops.logical_not(itself)))
    square = ops.where(itself, 0.0, ops.cast(square, "float32"))
    square = ops.cond(close, lambda: squared_distances(features), lambda: square)
    # sqrt has no gradient at 0, the distance of every example to itself and to its duplicates.
    return products, ops.where(square > 0, ops.sqrt(ops.where(square > 0, square, 1.0)), 0.0)


def _cosines(products, distances, vertices):
    """Return the cosines of the angles at the examples `vertices`, shape `[vertices, batch, batch]`."""
    rows, distances = ops.take(products, vertices, 0), ops.take(distances, vertices, 0)
    square = ops.expand_dims(ops.take(ops.diagonal(products), vertices), 1)
    inverse = ops.where(distances > 0, 1.0 / ops.where(distances > 0, distances, 1.0), 0.0)
    # <f_j - f_i, f_k - f_i>
    numerators = ops.cast(products - ops.expand_dims(rows, 2) - ops.expand_dims(rows - square, 1), "float32")
    # Rounding errors exceed the limits only where three examples are almost equal.
    return ops.clip(numerators * ops.expand_dims(inverse, 1) * ops.expand_dims(inverse, 2), -1.0, 1.0)


@keras.saving.register_keras_serializable("keras_distill")
class RelationalKD(DistillationLoss):
    """Relational knowledge distillation loss (RKD): weighted sum of distances and angles. No head is needed.

    Means are over all pairs and triplets, including those that contain an example twice, as in the authors' code. The
    angles take time for `batch^3` numbers; `angle=0` leaves them out. Compares all examples of the global batch under
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
