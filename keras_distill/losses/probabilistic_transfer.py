"""Probabilistic knowledge transfer (PKT)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, gram_matrix, unit_vectors
from keras_distill.losses.softened import kl_from_probabilities
from keras_distill.types import Tensor

_EPSILON = 1e-7


def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the KL divergence between the neighbor probabilities of two batches of embeddings.

    ```
    loss_i = sum_j p_t[j | i] * (log p_t[j | i] - log p_s[j | i])
    p[j | i] = (cos(f_i, f_j) + 1) / sum_k (cos(f_i, f_k) + 1)
    ```

    An example is also its own neighbor, as in the authors' code; the paper excludes it. The authors' code divides the
    mean of this loss by the batch size.

    Args:
        student: Embeddings, shape `[batch, dim]`.
        teacher: Embeddings, shape `[batch, dim]`; `dim` may differ.

    Returns:
        Nats, shape `[batch]`; 0 for a batch of one example.

    Reference:
        Passalis and Tefas, ECCV 2018, https://arxiv.org/abs/1803.10837
    """
    student, teacher = float32(student, teacher)
    # Opposite examples have probability 0, and log 0 is not finite.
    q, p = _neighbor_probabilities(student) + _EPSILON, _neighbor_probabilities(teacher) + _EPSILON
    return kl_from_probabilities(p, q, ops.log(p) - ops.log(q))


def _neighbor_probabilities(features):
    directions = unit_vectors(features)
    # Rounding errors give cosines slightly below -1, whose similarity would be negative.
    similarities = ops.maximum(gram_matrix(directions) + 1.0, 0.0)
    return similarities / ops.sum(similarities, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("keras_distill")
class ProbabilisticTransfer(DistillationLoss):
    """Probabilistic knowledge transfer loss (PKT). No head is needed.

    Compares all examples of the global batch under `tf.distribute`; see `Term(across_replicas=)`. RepDistiller's weight
    of 30,000 multiplies this loss divided by the batch size: 470 at a batch size of 64.

    Reference:
        Passalis and Tefas, ECCV 2018, https://arxiv.org/abs/1803.10837

    Example:
    >>> term = Term(ProbabilisticTransfer(), student="features", teacher="features", weight=470.0)
    """

    relational = True
    rank = 2

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return len(student_shape) == len(teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return probabilistic_transfer(student, teacher)
