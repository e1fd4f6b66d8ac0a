"""Models that write the texts of rollouts, and checks of these models."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.language.decoding import (
    MASK,
    TOKENS,
    ModelDecoder,
    OutputsDecoder,
    tokens_of,
    whole_model,
    with_tokens,
)
from keras_distill.language.sampling import Sampling, continue_texts, fold_in
from keras_distill.models.specs import Spec, Traced
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers import ModelTeacher
from keras_distill.types import Structure, Tensor


@dataclasses.dataclass(frozen=True)
class Writer:
    """One or two models that write texts together.

    Args:
        decoders: `ModelDecoder` or `OutputsDecoder` of each.
        fractions: Part of each in the distribution of the next token.
        sampling: The `Sampling`.
        stop_token_ids: Word indices that end a text.
        pad_token_id: Word index that fills the window after a text.
    """

    decoders: Sequence[Any]
    fractions: Sequence[float]
    sampling: Sampling
    stop_token_ids: Sequence[int]
    pad_token_id: int

    def write(self, inputs: Structure, tokens: Tensor, prompt: Tensor, limit: Tensor | int, seed: Tensor) -> Tensor:
        """Return prompts with continuations, the shape of `tokens`.

        Args:
            inputs: Inputs of a batch.
            tokens: Prompts, int32 of shape `[batch, window]`.
            prompt: Positions of the prompts, booleans.
            limit: Number of tokens of prompt and continuation.
            seed: Seed, two integers.
        """
        inputs = with_tokens(inputs, tokens, prompt)
        # Without a padding mask, the padding cannot be a word, too.
        forbidden = not isinstance(inputs, dict) and self.pad_token_id not in self.stop_token_ids

        def choose(logits, index):
            if forbidden:
                is_padding = ops.arange(logits.shape[-1]) == self.pad_token_id
                logits = ops.where(is_padding, -float("inf"), ops.cast(logits, "float32"))
            return self.sampling.choose(logits, fold_in(seed, index))

        def loop(next_logits, cache):
            start = ops.cast(tokens_of(inputs), "int32")
            return continue_texts(
                next_logits, cache, start, prompt, choose, limit, self.stop_token_ids, self.pad_token_id
            )

        def nested(decoders, functions, caches):
            """Enter the decoders one inside the other, since each passes its first cache to a function."""
            if not decoders:
                return loop(self._mixture(functions), caches)
            first, *rest = decoders
            return first.run(
                inputs, prompt, lambda function, cache: nested(rest, (*functions, function), (*caches, cache))
            )

        return nested(self.decoders, (), ())

    def _mixture(self, functions):
        def next_logits(tokens, caches, index):
            results = [function(tokens, cache, index) for function, cache in zip(functions, caches)]
            if len(results) == 1:
                return results[0][0], (results[0][1],)
            probabilities = [ops.softmax(ops.cast(logits, "float32"), axis=-1) for logits, _ in results]
            total = sum(fraction * each for fraction, each in zip(self.fractions, probabilities))
            return ops.log(total), tuple(cache for _, cache in results)

        return next_logits


def connect_writer(rollouts: Any, student: keras.Model, teacher: Any, traced: Traced) -> Writer:
    """Return the writer of rollouts.

    Args:
        rollouts: The `Rollouts`.
        student: The student.
        teacher: The `Teacher`.
        traced: Inputs and activations of both.

    Raises:
        ValueError: For models that cannot write texts for one another, and a missing stop token.
    """
    if not traced.teacher or teacher.stored:
        what = "stored teacher outputs belong to the given completions" if teacher.stored else "no term needs a teacher"
        raise ValueError(f"`rollouts` need a teacher that runs in each step: {what}. Pass the model as `teacher`.")
    _check_inputs(traced.inputs)
    of_student = ModelDecoder(student, traced.inputs)
    of_teacher = _teacher_decoder(teacher, traced)
    _check_logits(student.name, of_student.spec, traced.inputs, student)
    words = of_student.spec.shape[-1]
    _check_words(rollouts, words, of_teacher, traced.inputs, teacher)
    preprocessors = _preprocessors(student, teacher)
    stops, pad = special_tokens(rollouts.stop_token_ids, rollouts.pad_token_id, preprocessors)
    invalid = [token for token in (*stops, pad) if not 0 <= token < words]
    if invalid:
        raise ValueError(
            f"`stop_token_ids` and `pad_token_id` must be words of '{student.name}', which has {words}. "
            f"Received: {invalid}"
        )
    both = {"student": (of_student, 1 - rollouts.teacher_fraction), "teacher": (of_teacher, rollouts.teacher_fraction)}
    writers = list(both.values()) if rollouts.writer == "mixture" else [both[rollouts.writer]]
    if any(decoder is None for decoder, _ in writers):
        raise ValueError(
            f"writer='{rollouts.writer}' needs the logits of {type(teacher).__name__}: add a term that compares "
            "`teacher='output'`, or use writer='student'."
        )
    return Writer(*zip(*writers), rollouts.sampling, stops, pad)


def special_tokens(
    stop_token_ids: Sequence[int] | None, pad_token_id: int | None, preprocessors: Sequence[Any]
) -> tuple[list[int], int]:
    """Return the stop tokens and the padding, those of a preprocessor if they are not given.

    Args:
        stop_token_ids: Word indices that end a text, or None.
        pad_token_id: Word index of the padding, or None.
        preprocessors: Preprocessors of KerasHub, none or several.

    Raises:
        ValueError: For a missing stop token.
    """
    tokenizers = [preprocessor.tokenizer for preprocessor in preprocessors]
    if stop_token_ids is None and tokenizers:
        # Instruction-tuned models may have two.
        found = [getattr(tokenizers[0], name, None) for name in ("end_token_id", "end_token2_id")]
        stop_token_ids = [token for token in found if token is not None] or None
    if stop_token_ids is None:
        raise ValueError(
            "No stop token: neither model has a preprocessor with an end token. Pass it, "
            "`stop_token_ids=preprocessor.tokenizer.end_token_id`, or `stop_token_ids=[]` to fill the window."
        )
    if pad_token_id is None:
        pad_token_id = next((getattr(tokenizer, "pad_token_id", None) for tokenizer in tokenizers), None) or 0
    return list(stop_token_ids), pad_token_id


def _check_inputs(inputs):
    tokens = inputs.get(TOKENS) if isinstance(inputs, dict) else inputs
    fits = isinstance(tokens, tf.TensorSpec) and tokens.dtype.is_integer and len(tokens.shape) == 2
    if not fits or isinstance(inputs, dict) and set(inputs) - {TOKENS, MASK}:
        raise ValueError(
            f"Rollouts need models of tokens: one input of integers of shape [batch, tokens], or a dictionary with "
            f"'{TOKENS}' and '{MASK}', as KerasHub's language models take. Received: {inputs!r}"
        )


def _teacher_decoder(teacher, traced):
    is_model = isinstance(teacher, ModelTeacher) and isinstance(teacher.model, keras.Model)
    if is_model and teacher.inputs is None and teacher.classes is None:
        return ModelDecoder(teacher.model, traced.inputs)
    if OUTPUT not in traced.teacher:
        return None
    return OutputsDecoder(lambda inputs: teacher.activations(Batch(inputs))[OUTPUT], traced.teacher[OUTPUT])


def _check_logits(name, spec, inputs, model):
    shape = spec.shape if isinstance(spec, Spec) else None
    window = tokens_of(inputs).shape[1]
    if shape is None or len(shape) != 3 or not spec.dtype.startswith(("float", "bfloat")) or (
        None not in (shape[1], window) and shape[1] != window
    ):  # fmt: skip
        received = "several outputs" if shape is None else f"shape {shape}"
        raise ValueError(
            f"Rollouts need logits of each token, of shape [batch, tokens, words]. '{name}' returns {received}."
        )
    words = getattr(model, "vocabulary_size", None)
    if words is not None and words != shape[-1]:
        raise ValueError(
            f"'{name}' returns hidden states of {shape[-1]} numbers, not logits of its {words} words. Pass the "
            f"causal language model: keras_hub.models.CausalLM of this backbone."
        )


def _check_words(rollouts, words, decoder, inputs, teacher):
    if decoder is None:
        return
    _check_logits("teacher", decoder.spec, inputs, getattr(teacher, "model", None))
    others = decoder.spec.shape[-1]
    # Inputs that are mapped to the teacher's words may have any number.
    if teacher.models and others < words:
        raise ValueError(
            f"The student has {words} words, its teacher {others}: it could not read what the student writes. Cut the "
            "student's vocabulary by keras_distill.compression.trim_vocabulary."
        )
    if rollouts.writer != "student" and others != words:
        raise ValueError(
            f"The teacher writes {others} words, of which the student has {words}. Select the student's: "
            f"ModelTeacher(teacher, classes=range({words})), or use writer='student'."
        )


def _preprocessors(student, teacher):
    """Return the preprocessors of student and teacher, those that they have, of equal tokenizers."""
    models = [whole_model(model) for model in (student, *teacher.models)]
    found = [each for each in (getattr(model, "preprocessor", None) for model in models) if each is not None]
    first, *others = found or [None]
    for other in others:
        if _vocabulary(first) != _vocabulary(other):
            raise ValueError(
                "The tokenizers of student and teacher differ, so that they read the same tokens as different texts. "
                "Use models with one tokenizer."
            )
    return found


def _vocabulary(preprocessor):
    tokenizer = preprocessor.tokenizer
    return list(tokenizer.get_vocabulary()), list(getattr(tokenizer, "merges", None) or ())
