"""Losses of models with different tokenizers, compared span by span of a text."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses import DistillationLoss, UniversalLogitDistillation
from keras_distill.losses.checks import Shape
from keras_distill.losses.class_masks import finite_logits
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import value_at
from keras_distill.types import Tensor

STUDENT_SPANS, TEACHER_SPANS, TEACHER_PREFIX = "student_spans", "teacher_spans", "teacher_"
# Smallest probability of a token in the product of a span, as in published code: its logarithm has a bounded size.
_LOWEST = math.log(1e-8)


@keras.saving.register_keras_serializable("keras_distill")
class SpanAligned(DistillationLoss):
    """Universal logit distillation of models with different tokenizers, aligned span by span (GOLD).

    `align_texts` makes the inputs: the tokens of both models, and the spans in which tokens of both end at the same
    place. For each span the loss compares one row of each model, of probabilities that need not sum to 1:

    ```
    row[c] = p(c | text before the last token of the span) * product over the other tokens of the span of p(token)
    ```

    These are the joint probabilities of the span's tokens with `c` in place of the last one, by the chain rule. The
    value of an example is the mean over its spans, and with `Term(over="tokens")` the mean over all spans of a step.
    Sample weights are those of the student's position that predicts the last token of a span.

    The rows of all words are in memory, as in `HybridLogitDistillation`; `Chunked` does not take this loss.

    Args:
        loss: `HybridLogitDistillation(shared_words(...))`, which compares the words that both vocabularies have one by
            one, or `UniversalLogitDistillation()`. Defaults to None: `UniversalLogitDistillation()`.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not one of these. In the first step: if the inputs have no spans, or spans of another
            length than the logits.

    Reference:
        No paper. Hugging Face's TRL has it as GOLD with `uld_token_merge_strategy="bayesian"`. Its default,
        "observed", takes the distribution of the first token of a span instead.

    Example:
    >>> term = Term(SpanAligned(HybridLogitDistillation([(0, 7), (1, 3)])), over="tokens")
    """

    logits = True
    rank = 3
    aligns = True

    def __init__(self, loss: DistillationLoss | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if loss is not None and not getattr(loss, "compares_vocabularies", False):
            raise ValueError(
                "SpanAligned takes a loss of different vocabularies: `SpanAligned(HybridLogitDistillation(shared))` or "
                f"`SpanAligned(UniversalLogitDistillation())`. Received: {loss!r}"
            )
        self.loss = UniversalLogitDistillation() if loss is None else loss

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        if not self.loss.built:
            self.loss.build(student_shape, teacher_shape)

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        """Return True: neither positions nor words need to be the same."""
        return True

    def own_positions(self, batch: Batch) -> Tensor:
        """Return 1 where the student predicts the last token of a span, else 0; float32, shape `[batch, tokens]`."""
        return ops.cast(_is_last(_entry(batch, STUDENT_SPANS)), "float32")

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        spans, teacher_spans = _entry(batch, STUDENT_SPANS), _entry(batch, TEACHER_SPANS)
        _check_length("student", student, spans)
        _check_length("teacher", teacher, teacher_spans)
        temperature = value_at(self.loss.temperature, batch.step)
        student, teacher = (ops.log_softmax(x / temperature, axis=-1) for x in finite_logits(student, teacher))
        factors = _factors(student, _entry(batch, "token_ids"), spans)
        teacher_factors = _factors(teacher, _entry(batch, f"{TEACHER_PREFIX}token_ids"), teacher_spans)
        # One row for each of the student's positions; those that do not end a span have the weight 0.
        numbers = ops.maximum(spans, 0)
        rows = tf.gather(teacher, _last_positions(teacher_spans), batch_dims=1)
        rows = rows + teacher_factors[..., None]
        length = ops.shape(rows)[1] - 1
        rows = tf.gather(rows, ops.minimum(numbers, length), batch_dims=1)
        student = student + tf.gather(factors, numbers, batch_dims=1)[..., None]
        values = temperature * self.loss.distance(student, rows)
        return mean_over_positions(values, batch.position_weight)

    def temperature_at(self, step: Tensor) -> float | Tensor | None:
        return self.loss.temperature_at(step)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}


def _entry(batch, name):
    if not isinstance(batch.inputs, dict) or name not in batch.inputs:
        received = list(batch.inputs) if isinstance(batch.inputs, dict) else "one tensor"
        raise ValueError(
            f"SpanAligned needs the input '{name}'. Make the data by "
            "`dataset.map(keras_distill.language.align_texts(student_preprocessor, teacher_preprocessor))`, and pass a "
            f"batch of it as `Distiller(inputs=)`. Received inputs: {received}"
        )
    return ops.cast(batch.inputs[name], "int32")


def _check_length(side, logits, spans):
    lengths = logits.shape[1], spans.shape[1]
    if None not in lengths and lengths[0] != lengths[1]:
        raise ValueError(
            f"The {side}'s logits have {lengths[0]} positions, but its spans {lengths[1]}. Both must be of the tokens "
            "that `align_texts` returns, for the teacher by ModelTeacher(teacher, inputs=teacher_inputs)."
        )


def _is_last(spans):
    """Return which positions predict the last token of a span."""
    return ops.logical_and(spans >= 0, spans != _shifted(spans, -1))


def _shifted(tensor, last):
    return ops.concatenate([tensor[:, 1:], ops.full_like(tensor[:, :1], last)], axis=1)


def _factors(log, token_ids, spans):
    """Return the logarithm of the product of the probabilities of all but the last token of each span.

    Args:
        log: Logarithms of probabilities, shape `[batch, tokens, words]`.
        token_ids: Inputs of the model, shape `[batch, tokens]`; position `i` predicts token `i + 1`.
        spans: Span of the token that each position predicts, shape `[batch, tokens]`.

    Returns:
        float32, shape `[batch, tokens]`, in the order of the spans. There are at most as many spans as tokens.
    """
    # The last token of a span is never needed, so that the token after the last input is not missing.
    inner = ops.logical_and(spans >= 0, spans == _shifted(spans, -1))
    observed = ops.take_along_axis(log, _shifted(token_ids, 0)[..., None], axis=-1)[..., 0]
    observed = ops.where(inner, ops.maximum(observed, _LOWEST), 0.0)
    return _by_span(tf.math.unsorted_segment_sum, observed, spans)


def _last_positions(spans):
    """Return the position that predicts the last token of each span, 0 where there is no such span."""
    positions = ops.arange(ops.shape(spans)[1], dtype="int32")
    return ops.maximum(_by_span(tf.math.unsorted_segment_max, ops.where(_is_last(spans), positions, 0), spans), 0)


def _by_span(reduce, values, spans):
    """Reduce values of shape `[batch, tokens]` over the positions of each span."""
    batch, length = ops.shape(spans)
    rows = ops.arange(batch, dtype="int32")[:, None] * length
    # Negative indices are left out.
    indices = ops.where(spans >= 0, rows + spans, -1)
    reduced = reduce(ops.reshape(values, (-1,)), ops.reshape(indices, (-1,)), batch * length)
    return ops.reshape(reduced, (batch, length))
