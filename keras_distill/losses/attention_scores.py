"""Attention score distillation (TinyBERT)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import as_shape_pair, shapes_match
from keras_distill.losses.maths import as_pair, attention_scores_of, float32
from keras_distill.types import Structure, Tensor


def attention_scores(student: Tensor, teacher: Tensor, position_weight: Tensor | None = None) -> Tensor:
    """Compute the mean squared difference of attention scores before the softmax.

    ```
    loss = 1/heads * sum_h 1/tokens^2 * sum_ij (A_s[h, i, j] - A_t[h, i, j])^2
    A[h] = Q_h K_h^T / sqrt(dim)
    ```

    Padded queries and keys are excluded. The paper's code sets the scores of padded keys to 0 instead and averages over
    all pairs.

    Args:
        student: Attention scores, shape `[batch, heads, tokens, tokens]`, queries before keys.
        teacher: Attention scores, the same shape.
        position_weight: Weight of each token, shape `[batch, tokens]`. A token of weight 0 (padding) is excluded as a
            query and as a key. Defaults to None: all tokens count equally.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Jiao et al., EMNLP Findings 2020, https://arxiv.org/abs/1909.10351, equation 7
    """
    student, teacher = float32(student, teacher)
    if position_weight is None:
        return ops.mean(ops.square(student - teacher), axis=(1, 2, 3))
    weight = ops.cast(position_weight, "float32")
    pairs = ops.expand_dims(weight, -1) * ops.cast(ops.expand_dims(weight > 0, 1), "float32")
    # Models may set scores of padded keys to a large negative number, whose rounding errors must not enter the mean.
    difference = ops.where(ops.expand_dims(pairs, 1) > 0, student - teacher, 0.0)
    values = ops.mean(ops.square(difference), axis=1)
    return ops.divide_no_nan(ops.sum(values * pairs, axis=(1, 2)), ops.sum(pairs, axis=(1, 2)))


@keras.saving.register_keras_serializable("keras_distill")
class AttentionScores(DistillationLoss):
    """Attention score loss (TinyBERT). No head is needed.

    Compares pairs of activations, `(query, key)`: tap the sub-layers of the attention, whose outputs have the shape
    `[batch, tokens, heads, dim]`. One activation is paired with itself. Both layers must have the same number of
    attention heads; the width of a head may differ. TinyBERT uses this loss at every student layer, with weight 1, next
    to `HiddenState`.

    Reference:
        Jiao et al., EMNLP Findings 2020, https://arxiv.org/abs/1909.10351

    Example:
    >>> query_key = ("attention/query", "attention/key")
    >>> term = Term(AttentionScores(), student=query_key, teacher=query_key)
    """

    resizable = False
    rank = 4
    takes_several = True

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        pairs = zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape))
        return all(shapes_match(student[1:3], teacher[1:3]) for student, teacher in pairs)

    def compare(self, student: Structure, teacher: Structure, batch: Batch) -> Tensor:
        student_scores = attention_scores_of(*as_pair(student))
        teacher_scores = attention_scores_of(*as_pair(teacher))
        return attention_scores(student_scores, teacher_scores, batch.position_weight)
