"""Probabilistic knowledge transfer (PKT): which examples of a batch are neighbours, as probabilities."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, kl_from_probabilities, unit_vectors

_EPSILON = 1e-7


def probabilistic_transfer(student, teacher):
    """Divergence of the student's probabilities that one example is the neighbour of another.

    ```
    loss_i = sum_j p_t[j | i] * (log p_t[j | i] - log p_s[j | i])
    p[j | i] = (cos(f_i, f_j) + 1) / sum_k (cos(f_i, f_k) + 1)
    ```

    As in the authors' code an example is its own neighbour too, which the paper leaves out; their reduction is that of
    this loss over the batch size.

    Args:
        student: Embeddings, shape `[batch, dim]`.
        teacher: Embeddings, shape `[batch, dim]`; `dim` may differ.

    Returns:
        Nats, shape `[batch]`; 0 for a batch of one.

    Reference:
        Passalis and Tefas, ECCV 2018, https://arxiv.org/abs/1803.10837
    """
    # Opposite examples are no neighbours at all, and log 0 is not finite.
    q, p = (_neighbours(features) + _EPSILON for features in float32(student, teacher))
    return kl_from_probabilities(p, q, ops.log(p) - ops.log(q))


def _neighbours(features):
    directions = unit_vectors(features)
    # Rounding leaves cosines just below -1, whose similarity would be negative.
    similarities = ops.maximum(ops.matmul(directions, ops.transpose(directions)) + 1.0, 0.0)
    return similarities / ops.sum(similarities, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("keras_distill")
class ProbabilisticTransfer(DistillationLoss):
    """`probabilistic_transfer` as a loss for a `Term`. Needs no head."""

    relational = True
    rank = 2

    def comparable(self, student_shape, teacher_shape):
        return len(student_shape) == len(teacher_shape)

    def compare(self, student, teacher, batch):
        return probabilistic_transfer(student, teacher)
