"""Kozachenko-Leonenko regularizer of embeddings (KoLeo)."""

import math

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, unit_vectors
from keras_distill.types import Tensor

# As in DINOv2, added to each component of the difference, and to the distance.
_EPSILON = 1e-8


def koleo(student: Tensor) -> Tensor:
    """Compute the negative logarithm of each embedding's distance to its nearest neighbor in the batch.

    ```
    loss_i = log 2 - log min_j |x_i - x_j|,  j != i,  x = student / |student|
    ```

    Two vectors of unit length have a distance of 2 at most, so that the loss is not negative. Published code omits the
    `log 2`. The loss is 0 in a batch of one example.

    Args:
        student: Embeddings, shape `[batch, dim]`.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Sablayrolles et al., ICLR 2019, https://arxiv.org/abs/1806.03198; Oquab et al., 2023,
        https://arxiv.org/abs/2304.07193
    """
    (student,) = float32(student)
    rows = unit_vectors(student)
    count = ops.shape(rows)[0]
    similarity = ops.matmul(rows, ops.transpose(rows))
    # An example is not its own neighbor. The choice of the neighbor has no gradient.
    nearest = ops.argmax(ops.where(ops.eye(count, dtype="bool"), -2.0, similarity), axis=-1)
    difference = rows - ops.take(rows, nearest, axis=0) + _EPSILON
    distance = ops.sqrt(ops.sum(ops.square(difference), axis=-1))
    return ops.where(count > 1, ops.maximum(math.log(2.0) - ops.log(distance + _EPSILON), 0.0), 0.0)


@keras.saving.register_keras_serializable("keras_distill")
class KoLeo(DistillationLoss):
    """Kozachenko-Leonenko regularizer (KoLeo, DINOv2): spreads the student's embeddings.

    Reads the student's activation only. Add it with a small weight to a loss of embeddings, such as `QueueSimilarity`
    or `CenteredKL`, which a student could also lower by mapping examples to one point. DINOv2 uses a weight of 0.1.
    Compares all examples of the global batch under `tf.distribute`; see `Term(across_replicas=)`.

    Reference:
        See `koleo`.

    Example:
    >>> term = Term(KoLeo(), student="features", teacher="features", weight=0.1)
    """

    relational = True
    rank = 2

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return True

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return koleo(student)
