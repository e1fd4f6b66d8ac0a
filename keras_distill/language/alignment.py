"""Texts as tokens of two tokenizers, aligned where tokens of both end at the same place."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill.language.packing import on_texts, packer
from keras_distill.language.span_aligned import STUDENT_SPANS, TEACHER_PREFIX, TEACHER_SPANS
from keras_distill.language.token_texts import token_texts
from keras_distill.types import Tensor

_WHITESPACE = b" \t\n\r\v\f"
# Unknown words: bytes that no text contains, different for the two sides, so that nothing after them is aligned.
_UNKNOWN = b"\xff", b"\xfe"


def align_texts(
    student_preprocessor: Any, teacher_preprocessor: Any
) -> Callable[..., tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Return a function from texts to training examples of a student and a teacher with different tokenizers.

    The function is for `tf.data.Dataset.map` and takes prompts and responses, or texts alone, as `completions` does. It
    returns `(x, y, sample_weight)` of the student, with the teacher's tokens in `x` under the names "teacher_token_ids"
    and "teacher_padding_mask", and the alignment, which `SpanAligned` reads: "student_spans" and "teacher_spans" hold
    for each position the number of the span of the token that the position predicts, or -1.

    A span is the smallest group of tokens of both models that end at the same place of the response:

    ```
    student   |un|aligned| text|s|      spans 0 0 1 1
    teacher   |unaligned| tex|ts|       spans 0 1 1
    ```

    Whitespace and the case of ASCII letters are not compared. The end tokens are a separate span. Tokens after an
    unknown word, or after characters that a tokenizer changes, such as accents that it strips, belong to no span, and
    neither does what only one window has room for: `SpanAligned` does not count them.

    Args:
        student_preprocessor: `keras_hub.models.CausalLMPreprocessor` of texts that pads at the end, with a byte-pair,
            SentencePiece or WordPiece tokenizer.
        teacher_preprocessor: The same of the teacher. Its `sequence_length` may differ: pass enough for the same texts.

    Returns:
        A function that returns `x`, a dictionary of tensors of shape `[batch, sequence_length]` of either model, `y`
        and `sample_weight`. It raises ValueError as the function of `completions` does.

    Raises:
        ValueError: For a preprocessor that does not pad at the end, and for other tokenizers.

    Example:

    >>> def distilled(student, teacher, texts):
    ...     data = texts.batch(8).map(align_texts(student.preprocessor, teacher.preprocessor))
    ...     return Distiller(
    ...         student=student,
    ...         teacher=ModelTeacher(teacher, inputs=teacher_inputs),
    ...         terms=[Term(SpanAligned(), over="tokens")],
    ...         inputs=next(iter(data))[0],
    ...     ), data
    """
    preprocessors = student_preprocessor, teacher_preprocessor
    packers = [packer(preprocessor) for preprocessor in preprocessors]
    texts = [token_texts(preprocessor.tokenizer) for preprocessor in preprocessors]
    compared = [_comparable(*side) for side in zip(texts, _UNKNOWN)]

    def spans_of_batch(student, student_counted, teacher, teacher_counted):
        rows = zip(student, student_counted, teacher, teacher_counted)
        pairs = [_spans_of_targets(compared, *row) for row in rows]
        return [np.array(side, "int32").reshape(-1, x.shape[1] - 1) for side, x in zip(zip(*pairs), (student, teacher))]

    def packed(prompts, responses):
        (tokens, mask, counted), (teacher_tokens, teacher_mask, teacher_counted) = (
            pack(prompts, responses) for pack in packers
        )
        arrays = [tokens, counted, teacher_tokens, teacher_counted]
        spans = tf.numpy_function(spans_of_batch, arrays, (tf.int32, tf.int32), stateful=False)
        spans = [tf.ensure_shape(one, (None, side.shape[1] - 1)) for one, side in zip(spans, (tokens, teacher_tokens))]
        x = {
            "token_ids": tokens[:, :-1],
            "padding_mask": mask[:, :-1],
            f"{TEACHER_PREFIX}token_ids": teacher_tokens[:, :-1],
            f"{TEACHER_PREFIX}padding_mask": teacher_mask[:, :-1],
            STUDENT_SPANS: spans[0],
            TEACHER_SPANS: spans[1],
        }
        return x, tokens[:, 1:], tf.cast(counted[:, 1:], "float32")

    return on_texts(packed)


def teacher_inputs(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the teacher's tokens among the inputs of `align_texts`, for `ModelTeacher(inputs=teacher_inputs)`.

    Args:
        inputs: `x` of `align_texts`.
    """
    return {name: inputs[f"{TEACHER_PREFIX}{name}"] for name in ("token_ids", "padding_mask")}


def aligned_spans(student: Sequence[bytes], teacher: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Return the number of the span of each token of two tokenizations of a text.

    A token without text, such as a single space, belongs to the span of the next one.

    Args:
        student: Text of each of the student's tokens, without whitespace.
        teacher: Text of each of the teacher's tokens, without whitespace.

    Returns:
        Numbers from 0 for each side, which do not decrease. -1 for the tokens after the last common end.
    """
    sides = student, teacher
    ends = [np.cumsum([len(text) for text in side], dtype=int) for side in sides]
    texts = [np.frombuffer(b"".join(side), "uint8") for side in sides]
    length = min(map(len, texts))
    differs = np.flatnonzero(texts[0][:length] != texts[1][:length])
    agreed = differs[0] if len(differs) else length
    common = np.intersect1d(*ends)
    common = common[(common > 0) & (common <= agreed)]
    spans = []
    for side, own_ends in zip(sides, ends):
        has_text = np.array([bool(text) for text in side], bool)
        # The first common end that is not before the end of the token.
        numbers = np.where(has_text, np.searchsorted(common, own_ends), np.searchsorted(common, own_ends, side="right"))
        spans.append(np.where(numbers < len(common), numbers, -1).tolist())
    return spans[0], spans[1]


def _comparable(texts, unknown):
    """Return the function from a word index to its text without whitespace and case."""
    plain = {index: text.translate(None, _WHITESPACE).lower() for index, text in texts.items() if text is not None}
    # Byte-pair tokenizers have the index -1 for characters that are not in the vocabulary.
    return lambda token: plain.get(int(token), unknown)


def _spans_of_targets(texts, student, student_counted, teacher, teacher_counted):
    """Return the span of each token but the first of two windows, -1 for those that do not count."""
    counted = [np.flatnonzero(side) for side in (student_counted, teacher_counted)]
    tokens = [side[places] for side, places in zip((student, teacher), counted)]
    found = aligned_spans(*(list(map(text_of, side)) for text_of, side in zip(texts, tokens)))
    # No position predicts the first token of a window, so that its span, number 0, is left out.
    first = int(any(0 in places for places in counted))
    results = []
    for window, places, side in zip((student, teacher), counted, found):
        spans = np.full(len(window), -1)
        spans[places] = np.maximum(np.array(side, int) - first, -1)
        results.append(spans[1:])
    return results
