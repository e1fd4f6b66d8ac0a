"""Attention scores of a transformer, before their softmax (TinyBERT)."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.maths import as_pair, as_shape_pair, attention_scores_of, float32


def attention_scores(student, teacher, position_weight=None):
    """Mean squared difference of two layers' attention scores.

    ```
    loss = 1/heads * sum_h 1/tokens^2 * sum_ij (A_s[h, i, j] - A_t[h, i, j])^2
    A[h] = Q_h K_h^T / sqrt(dim)
    ```

    The paper's code sets the scores of padded keys to 0 and counts all pairs; here a padded query or key has no part.

    Args:
        student: Scores, shape `[batch, heads, tokens, tokens]`, queries before keys.
        teacher: Scores, the same shape.
        position_weight: Shape `[batch, tokens]`; where it is 0, a token is neither query nor key.

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
    # Scores that a model has set to a large negative number at padded keys would leave rounding behind.
    difference = ops.where(ops.expand_dims(pairs, 1) > 0, student - teacher, 0.0)
    values = ops.mean(ops.square(difference), axis=1)
    return ops.divide_no_nan(ops.sum(values * pairs, axis=(1, 2)), ops.sum(pairs, axis=(1, 2)))


@keras.saving.register_keras_serializable("keras_distill")
class AttentionScores(DistillationLoss):
    """`attention_scores` as a loss for a `Term`. Both layers need as many heads; the heads' widths may differ.

    Compares pairs of activations, `(query, key)`: tap the sub-layers of the attention, whose outputs have the shape
    `[batch, tokens, heads, dim]`. A single activation is paired with itself.
    """

    rank = 4
    takes_several = True

    def comparable(self, student_shape, teacher_shape):
        pairs = zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape))
        return all(shapes_match(student[1:3], teacher[1:3]) for student, teacher in pairs)

    def compare(self, student, teacher, batch):
        scores = (attention_scores_of(*as_pair(side)) for side in (student, teacher))
        return attention_scores(*scores, batch.position_weight)
