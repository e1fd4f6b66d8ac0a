"""Self-attention relations: how the tokens of an example attend to one another (MiniLM)."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.maths import as_pair, as_shape_pair, attention_scores_of, float32, kl_from_logits
from keras_distill.models.masking import mean_over_positions


def attention_relation(student, teacher, position_weight=None):
    """Divergence of the student's relations from the teacher's, each token's taken as probabilities.

    ```
    loss = 1/heads * sum_h 1/tokens * sum_i KL(R_t[h, i] || R_s[h, i])
    R[h] = softmax over j of (A_h B_h^T / sqrt(dim))
    ```

    `A` and `B` are queries and keys for the attention itself, or twice the queries, keys or values.

    Args:
        student: Scaled products before the softmax, shape `[batch, heads, tokens, tokens]`.
        teacher: Scaled products, the same shape.
        position_weight: Shape `[batch, tokens]`; where it is 0, a token relates to none and none to it.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957;
        Wang et al., ACL Findings 2021, https://arxiv.org/abs/2012.15828
    """
    student, teacher = float32(student, teacher)
    if position_weight is not None:
        present = ops.expand_dims(position_weight, (1, 2)) > 0
        student, teacher = (ops.where(present, products, -1e30) for products in (student, teacher))
    return mean_over_positions(ops.mean(kl_from_logits(student, teacher), axis=1), position_weight)


@keras.saving.register_keras_serializable("keras_distill")
class AttentionRelation(DistillationLoss):
    """`attention_relation` as a loss for a `Term`. Widths may differ, and with `heads` the numbers of heads too.

    ```python
    Term(AttentionRelation(), ("attention/query", "attention/key"), ("attention/query", "attention/key"))
    Term(AttentionRelation(), "attention/value", "attention/value")
    ```

    Relates the two activations of a pair, or a single one with itself: the first line above is MiniLM's query-key, the
    second its value-value; version 2 has query-query, key-key and value-value, with `heads`.

    Args:
        heads: Relation heads: each token's activation, all its heads joined, is cut into as many parts. Default None,
            the heads of the activations, whose shape is then `[batch, tokens, heads, dim]`.
    """

    takes_several = True

    def __init__(self, heads=None, **kwargs):
        super().__init__(**kwargs)
        if heads is not None and (isinstance(heads, bool) or not isinstance(heads, int) or heads < 1):
            raise ValueError(f"`heads` must be an integer, 1 or more, or None. Received: {heads!r}")
        self.heads = heads

    def build(self, student_shape, teacher_shape):
        for shape in (*as_shape_pair(student_shape), *as_shape_pair(teacher_shape)):
            if len(shape) not in ((4,) if self.heads is None else (3, 4)):
                takes = "[batch, tokens, heads, dim]" + (", or give it `heads`" if self.heads is None else "")
                raise ValueError(f"AttentionRelation compares activations of shape {takes}. Received: shape {shape}.")
            if self.heads is not None and _width(shape) % self.heads:
                raise ValueError(f"A width of {_width(shape)} does not divide into {self.heads} heads. Shape: {shape}.")

    def comparable(self, student_shape, teacher_shape):
        pairs = zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape))
        axes = slice(1, 3 if self.heads is None else 2)
        return all(shapes_match(student[axes], teacher[axes]) for student, teacher in pairs)

    def compare(self, student, teacher, batch):
        products = (attention_scores_of(*map(self._with_heads, as_pair(side))) for side in (student, teacher))
        return attention_relation(*products, batch.position_weight)

    def _with_heads(self, activation):
        if self.heads is None:
            return activation
        width = _width(activation.shape)
        return ops.reshape(activation, (*ops.shape(activation)[:2], self.heads, width // self.heads))

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


def _width(shape):
    return shape[2] if len(shape) == 3 else shape[2] * shape[3]
