"""Similarity-preserving distillation (SP): which examples of a batch resemble one another."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, unit_vectors


def similarity_preserving(student, teacher):
    """Squared difference of the similarities among the examples of a batch.

    ```
    loss_i = 1/batch * sum_j (G_t[i, j] - G_s[i, j])^2
    G = rows of F F^T, each divided by its length;  F = features, one flat row per example
    ```

    The features themselves are never compared, so they may differ in every axis but the batch. The value depends on
    which examples share the batch, and is 0 for a batch of one.

    Args:
        student: Features, shape `[batch, ...]`.
        teacher: Features, shape `[batch, ...]`.

    Returns:
        Unitless, shape `[batch]`; its mean is the paper's loss.

    Reference:
        Tung and Mori, ICCV 2019, https://arxiv.org/abs/1907.09682
    """
    student, teacher = float32(student, teacher)
    return ops.mean(ops.square(_similarities(teacher) - _similarities(student)), axis=-1)


def _similarities(features):
    flat = ops.reshape(features, (ops.shape(features)[0], -1))
    # An example without any activation resembles none; dividing by its length would make the gradient explode.
    return unit_vectors(ops.matmul(flat, ops.transpose(flat)))


@keras.saving.register_keras_serializable("keras_distill")
class SimilarityPreserving(DistillationLoss):
    """`similarity_preserving` as a loss for a `Term`. Needs no head."""

    relational = True

    def comparable(self, student_shape, teacher_shape):
        return True

    def compare(self, student, teacher, batch):
        return similarity_preserving(student, teacher)
