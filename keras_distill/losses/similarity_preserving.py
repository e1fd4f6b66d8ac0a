"""Similarity-preserving knowledge distillation (SP)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, gram_matrix, unit_vectors
from keras_distill.types import Tensor


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared difference between the similarity matrices of the two batches.

    ```
    loss_i = 1/batch * sum_j (G_t[i, j] - G_s[i, j])^2
    G = rows of F F^T, each scaled to unit length;  F = features, one flat row per example
    ```

    Widths and resolutions may differ, because only similarities between examples are compared. The loss of an example
    depends on the other examples of the batch and is 0 for a batch of one.

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
    # An example without any activation has only similarities of 0; dividing by their length would make the gradient
    # explode.
    return unit_vectors(gram_matrix(flat))


@keras.saving.register_keras_serializable("keras_distill")
class SimilarityPreserving(DistillationLoss):
    """Similarity-preserving distillation loss (SP). No head is needed.

    Compares all examples of the global batch under `tf.distribute`; see `Term(across_replicas=)`. The paper and
    RepDistiller use a weight of 3000.

    Reference:
        Tung and Mori, ICCV 2019, https://arxiv.org/abs/1907.09682

    Example:
    >>> term = Term(SimilarityPreserving(), student="block_2", teacher="block_4", weight=3000.0)
    """

    resizable = False
    relational = True

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return True

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return similarity_preserving(student, teacher)
