"""On-policy distillation: texts that the student or the teacher writes during training."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.language.decoding import padding_mask_of, tokens_of, with_tokens
from keras_distill.language.sampling import Sampling, fold_in, uniform, until_stop
from keras_distill.language.writers import connect_writer
from keras_distill.models.specs import Traced
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer, check_number

WRITERS = ("student", "teacher", "mixture")


@keras.saving.register_keras_serializable("keras_distill")
class Rollouts:
    """Texts that a model writes during training, for `Distiller(rollouts=...)`.

    In a training step, the prompts of the batch are continued, and student and teacher are compared on the result:

    ```
    writer="student"    on-policy distillation (GKD): the student learns where its own texts lead
    writer="teacher"    sequence-level distillation: the student learns from the teacher's texts
    writer="mixture"    each token is drawn from (1 - teacher_fraction) p_student + teacher_fraction p_teacher
    ```

    The prompt of an example ends with the position of its first sample weight other than 0, as `completions` sets
    them. Without weights for positions, the whole text without its padding is the prompt. Generated tokens and the
    stop token have the weight of the example, prompts and padding 0: a term counts them alone. Labels are the
    generated tokens where the teacher writes. Elsewhere they are missing (-1): the supervised loss and the metrics of
    `compile` see given completions alone, never the student's samples. Validation uses given completions.

    Texts are written in inference mode, outside of the gradient tape. Causal language models of KerasHub keep keys and
    values of earlier tokens; any other model of tokens runs on the whole window for each token. Random numbers depend
    on `seed`, step and replica alone, so that a resumed training writes the same texts.

    Args:
        max_length: Number of tokens of prompt and continuation, > 1. 64 to 512 is typical. Shorter windows are padded
            to it. Defaults to the window of the batch.
        on_policy_fraction: Probability that a step continues prompts, in (0, 1]; other steps train on the given
            completions. 0.5 or 1 is typical. Defaults to 1.
        writer: "student", "teacher" or "mixture". Defaults to "student".
        teacher_fraction: Part of the teacher in a "mixture", in (0, 1). 0.2 is typical. Defaults to 0.2.
        temperature: Softmax temperature of the writer, >= 0; 0 is greedy. 1 is typical. Defaults to 1.
        top_k: Number of most probable words that are drawn from. Defaults to None, all words.
        top_p: Total probability of the most probable words that are drawn from, in (0, 1]. Defaults to None, all words.
        stop_token_ids: Word indices that end a text, an integer or a list; an empty list fills the window. Defaults to
            the end tokens of the preprocessor of student or teacher.
        pad_token_id: Word index that fills the window after a text. A model of tokens without `padding_mask` never
            writes it. Defaults to that of the preprocessor, or 0.
        seed: Integer >= 0. Defaults to 0.

    Raises:
        ValueError: For an argument out of range. When the distiller is made, for a model whose output is not logits of
            each token, a teacher whose words are not the student's, tokenizers that differ, stored teacher outputs, and
            a missing stop token.

    Example:
    >>> rollouts = Rollouts(max_length=16, on_policy_fraction=0.5, stop_token_ids=1)

    Reference:
        Agarwal et al. 2024, https://arxiv.org/abs/2306.13649; Kim & Rush 2016, https://arxiv.org/abs/1606.07947;
        Gu et al. 2024, https://arxiv.org/abs/2306.08543 (mixture)
    """

    def __init__(
        self,
        max_length: int | None = None,
        on_policy_fraction: float = 1.0,
        writer: str = "student",
        teacher_fraction: float = 0.2,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_token_ids: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        seed: int = 0,
    ):
        if writer not in WRITERS:
            raise ValueError(f"`writer` must be one of {list(WRITERS)}. Received: {writer!r}")
        self.max_length = check_integer(max_length, "max_length", at_least=2, optional=True)
        self.on_policy_fraction = check_number(on_policy_fraction, "on_policy_fraction", above=0, at_most=1)
        self.writer = writer
        self.teacher_fraction = check_number(teacher_fraction, "teacher_fraction", above=0, below=1)
        self.sampling = Sampling(temperature, top_k, top_p)
        self.stop_token_ids = as_token_ids(stop_token_ids)
        self.pad_token_id = check_integer(pad_token_id, "pad_token_id", at_least=0, optional=True)
        self.seed = check_integer(seed, "seed", at_least=0)

    @property
    def writes_labels(self) -> bool:
        """True if the generated tokens are labels: the teacher writes them."""
        return self.writer == "teacher"

    def connect(self, student: keras.Model, teacher: Any, traced: Traced) -> Callable[[Batch, Tensor], Batch]:
        """Return the function of a batch and the step that replaces the batch. `Distiller` calls this.

        Args:
            student: The student.
            teacher: The `Teacher`.
            traced: Inputs and activations of both.

        Raises:
            ValueError: For models that cannot write texts for one another.
        """
        writer = connect_writer(self, student, teacher, traced)
        return lambda batch, step: self._roll_out(writer, batch, step)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "max_length": self.max_length,
            "on_policy_fraction": self.on_policy_fraction,
            "writer": self.writer,
            "teacher_fraction": self.teacher_fraction,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "stop_token_ids": self.stop_token_ids,
            "pad_token_id": self.pad_token_id,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Rollouts":
        """Return rollouts with the arguments of a configuration."""
        return cls(**config)

    def _roll_out(self, writer, batch, step):
        batch = _padded(batch, self.max_length, writer.pad_token_id)
        if self.on_policy_fraction == 1:
            return self._continued(writer, batch, step)
        # Replicas draw the same number: all of them write, or none.
        draw = uniform((), fold_in([self.seed, 1], step))
        given = self._given(batch, writer)

        def parts(batch):
            labels = {} if given.labels is None else {"labels": batch.labels}
            return {"inputs": batch.inputs, "sample_weight": batch.sample_weight, **labels}

        rolled_out = draw < self.on_policy_fraction
        chosen = tf.cond(rolled_out, lambda: parts(self._continued(writer, batch, step)), lambda: parts(given))
        return batch._replace(**chosen)

    def _given(self, batch, writer):
        """Return the batch of given completions, with labels and weights if it has none."""
        labels, weights = batch.labels, batch.sample_weight
        mask = padding_mask_of(batch.inputs, writer.pad_token_id)
        if labels is None and self.writes_labels:
            labels = -ops.ones_like(tokens_of(batch.inputs), dtype="int32")
        weights = ops.ones_like(mask, dtype="float32") if weights is None else ops.cast(weights, "float32")
        weights = weights[:, None] if len(weights.shape) == 1 else weights
        return batch._replace(labels=labels, sample_weight=weights * ops.cast(mask, "float32"))

    def _continued(self, writer, batch, step):
        """Return the batch with continued prompts."""
        tokens = ops.cast(tokens_of(batch.inputs), "int32")
        mask = padding_mask_of(batch.inputs, writer.pad_token_id)
        prompt, example_weight = _prompts(mask, batch.sample_weight)
        limit = self.max_length or ops.shape(tokens)[1]
        _check_prompts(prompt, limit)
        tokens = ops.where(prompt, tokens, writer.pad_token_id)
        seed = fold_in([self.seed, 0], step, _replica())
        tokens = writer.write(batch.inputs, tokens, prompt, limit, seed)
        written = until_stop(tokens, prompt, limit, writer.stop_token_ids)
        # The logits of a position are those of the next token.
        generated = _shifted(ops.logical_and(written, ops.logical_not(prompt)), False)
        following = _shifted(tokens, writer.pad_token_id)
        labels = batch.labels
        if self.writes_labels:
            dtype = "int32" if labels is None else labels.dtype
            labels = ops.cast(ops.where(generated, following, -1), dtype)
        elif labels is not None:
            labels = -ops.ones_like(labels)
        return batch._replace(
            inputs=with_tokens(batch.inputs, ops.where(written, tokens, writer.pad_token_id), written),
            labels=labels,
            sample_weight=ops.cast(generated, "float32") * example_weight,
        )


def as_token_ids(token_ids: int | Sequence[int] | None) -> list[int] | None:
    """Return stop tokens as a list, or None.

    Args:
        token_ids: An integer, integers, or None.

    Raises:
        ValueError: For a number that is not an integer >= 0.
    """
    if token_ids is None:
        return None
    several = token_ids if isinstance(token_ids, (list, tuple)) else [token_ids]
    return [check_integer(token_id, "stop_token_ids", at_least=0) for token_id in several]


def _padded(batch, length, pad_token_id):
    """Return the batch with windows of at least `length` tokens."""
    tokens = tokens_of(batch.inputs)
    window = ops.shape(tokens)[1]
    if length is None or isinstance(window, int) and window >= length:
        return batch
    missing = ops.maximum(length - window, 0)

    def pad(tensor, value):
        if tensor is None or len(tensor.shape) < 2:
            return tensor
        return tf.pad(tensor, [[0, 0], [0, missing]], constant_values=tf.cast(value, tensor.dtype))

    mask = pad(padding_mask_of(batch.inputs, pad_token_id), False)
    return batch._replace(
        inputs=with_tokens(batch.inputs, pad(tokens, pad_token_id), mask),
        labels=pad(batch.labels, -1),
        sample_weight=pad(batch.sample_weight, 0),
    )


def _prompts(mask, weights):
    """Return the positions of the prompts, and the weight of each example, shape `[batch, 1]`."""
    if weights is None:
        return mask, 1.0
    weights = ops.cast(weights, "float32")
    if len(weights.shape) == 1 or weights.shape[1] == 1:
        return mask, ops.reshape(weights, (-1, 1))
    positions, counted = ops.arange(ops.shape(mask)[1], dtype="int32"), weights != 0
    first = ops.min(ops.where(counted, positions, ops.shape(mask)[1]), axis=1, keepdims=True)
    # An example without weights does not count. Any token is its prompt.
    has_weights = ops.any(counted, axis=1, keepdims=True)
    prompt = ops.where(has_weights, ops.logical_and(mask, positions <= first), positions < 1)
    return prompt, ops.max(weights, axis=1, keepdims=True)


def _check_prompts(prompt, limit):
    lengths = ops.sum(ops.cast(prompt, "int32"), axis=1)
    # Without an effect in steps that XLA compiles.
    message = (
        "Each prompt of `rollouts` must have at least one token and leave room for one in the window. Use a larger "
        "`max_length`, or mark the completions by sample weights, as keras_distill.language.completions does. "
        "Lengths of the prompts, and of the window:"
    )
    tf.debugging.Assert(ops.all(ops.logical_and(lengths > 0, lengths < limit)), [message, lengths, limit])


def _replica():
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def _shifted(tensor, last):
    return ops.concatenate([tensor[:, 1:], ops.full_like(tensor[:, :1], last)], axis=1)
