"""Self-attention relation distillation (MiniLM, MiniLMv2)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import as_shape_pair, shapes_match
from keras_distill.losses.maths import as_pair, attention_scores_of, float32
from keras_distill.losses.softened import kl_from_logits
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Structure, Tensor
from keras_distill.utils.arguments import check_integer


def attention_relation(student: Tensor, teacher: Tensor, position_weight: Tensor | None = None) -> Tensor:
    """Compute the KL divergence between the self-attention relations of two layers.

    ```
    loss = 1/heads * sum_h 1/tokens * sum_i KL(R_t[h, i] || R_s[h, i])
    R[h] = softmax over j of (A_h B_h^T / sqrt(dim))
    ```

    `A` and `B` are the queries and keys for the attention itself, or the queries, keys or values paired with
    themselves.

    Args:
        student: Scaled dot products before the softmax, shape `[batch, heads, tokens, tokens]`.
        teacher: Scaled dot products before the softmax, the same shape.
        position_weight: Weight of each token, shape `[batch, tokens]`. A token of weight 0 (padding) is excluded as a
            query and as a key. Defaults to None: all tokens count equally.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957;
        Wang et al., ACL Findings 2021, https://arxiv.org/abs/2012.15828
    """
    student, teacher = float32(student, teacher)
    if position_weight is not None:
        present = ops.expand_dims(position_weight, (1, 2)) > 0
        # Not -inf: the difference of two infinite scores is NaN.
        student, teacher = ops.where(present, student, -1e30), ops.where(present, teacher, -1e30)
    return mean_over_positions(ops.mean(kl_from_logits(student, teacher), axis=1), position_weight)


@keras.saving.register_keras_serializable("keras_distill")
class AttentionRelation(DistillationLoss):
    """Self-attention relation loss (MiniLM, MiniLMv2). No head is needed.

    Tap the sub-layers `query`, `key` and `value` of an attention layer. The loss compares the relation of a pair of
    activations, or of one activation with itself. MiniLM sums the query-key and the value-value relation of the last
    layer. MiniLMv2 sums query-query, key-key and value-value with 48 or 64 relation heads, and taps an upper-middle
    layer of a large teacher. Widths may differ; numbers of attention heads may differ if `heads` is set. Each term has
    weight 1 in the papers.

    Args:
        heads: Number of relation heads, >= 1. Splits the joined width of all attention heads into this many parts, so
            it must divide the width of every tapped activation. Defaults to None: the attention heads of the
            activations, whose shape is then `[batch, tokens, heads, dim]`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `heads` is not an integer >= 1 or None, or when the distiller is made, if an activation has
            another rank or a width that `heads` does not divide.

    Reference:
        Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957;
        Wang et al., ACL Findings 2021, https://arxiv.org/abs/2012.15828

    Example:
    >>> query_key = ("attention/query", "attention/key")
    >>> terms = [
    ...     Term(AttentionRelation(), student=query_key, teacher=query_key, name="query_key"),
    ...     Term(AttentionRelation(), student="attention/value", teacher="attention/value", name="value_value"),
    ... ]
    """

    resizable = False
    takes_several = True

    def __init__(self, heads: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = check_integer(heads, "heads", optional=True)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        for shape in (*as_shape_pair(student_shape), *as_shape_pair(teacher_shape)):
            if len(shape) not in ((4,) if self.heads is None else (3, 4)):
                expected = "[batch, tokens, heads, dim]"
                if self.heads is None:
                    expected += "; for [batch, tokens, width] set `heads`, as in AttentionRelation(heads=12)"
                else:
                    expected = f"[batch, tokens, width] or {expected}"
                raise ValueError(f"AttentionRelation takes activations of shape {expected}. Received: shape {shape}")
            if self.heads is not None and _width(shape) % self.heads:
                raise ValueError(
                    f"AttentionRelation: `heads` must divide the width of the activations, {_width(shape)}. "
                    f"Received: heads={self.heads}, shape {shape}"
                )

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        pairs = zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape))
        axes = slice(1, 3 if self.heads is None else 2)
        return all(shapes_match(student[axes], teacher[axes]) for student, teacher in pairs)

    def compare(self, student: Structure, teacher: Structure, batch: Batch) -> Tensor:
        return attention_relation(self._scores(student), self._scores(teacher), batch.position_weight)

    def _scores(self, activations):
        first, second = as_pair(activations)
        return attention_scores_of(self._split_heads(first), self._split_heads(second))

    def _split_heads(self, activation):
        if self.heads is None:
            return activation
        width = _width(activation.shape)
        return ops.reshape(activation, (*ops.shape(activation)[:2], self.heads, width // self.heads))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}


def _width(shape):
    return shape[2] if len(shape) == 3 else shape[2] * shape[3]
