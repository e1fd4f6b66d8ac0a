"""Continued prompts: the batch of a training step with rollouts."""

from typing import Any

import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.language.decoding import padding_mask_of, tokens_of, with_tokens
from keras_distill.language.replay import ReplayBuffer, Texts
from keras_distill.language.sampling import fold_in, uniform, until_stop
from keras_distill.language.writers import Writer
from keras_distill.types import Tensor


class Continuation:
    """Function of a batch and the step that returns the batch with rollouts.

    Args:
        settings: The `Rollouts`.
        writer: The `Writer`.
        replay: The `ReplayBuffer`, or None.

    Attributes:
        state: Variables that change during training and are saved with the distiller.
    """

    def __init__(self, settings: Any, writer: Writer, replay: ReplayBuffer | None):
        self._settings, self._writer, self._replay = settings, writer, replay
        self.state = () if replay is None else replay.state

    def __call__(self, batch: Batch, step: Tensor) -> Batch:
        """Return the batch of a step."""
        settings = self._settings
        batch = _padded(batch, settings.max_length, self._writer.pad_token_id)
        if settings.on_policy_fraction == 1:
            return self._continued(batch, step)
        # Replicas draw the same number: all of them write, or none.
        draw = uniform((), fold_in([settings.seed, 1], step))
        given = self._given(batch)

        def parts(batch):
            labels = {} if given.labels is None else {"labels": batch.labels}
            return {"inputs": batch.inputs, "sample_weight": batch.sample_weight, **labels}

        rolled_out = draw < settings.on_policy_fraction
        chosen = tf.cond(rolled_out, lambda: parts(self._continued(batch, step)), lambda: parts(given))
        return batch._replace(**chosen)

    def _given(self, batch):
        """Return the batch of given completions, with labels and weights if it has none."""
        labels, weights = batch.labels, batch.sample_weight
        mask = padding_mask_of(batch.inputs, self._writer.pad_token_id)
        if labels is None and self._settings.writes_labels:
            labels = -ops.ones_like(tokens_of(batch.inputs), dtype="int32")
        weights = ops.ones_like(mask, dtype="float32") if weights is None else ops.cast(weights, "float32")
        weights = weights[:, None] if len(weights.shape) == 1 else weights
        return batch._replace(labels=labels, sample_weight=weights * ops.cast(mask, "float32"))

    def _continued(self, batch, step):
        """Return the batch with continued prompts, or one from the replay buffer."""
        texts = self._write(batch, step) if self._replay is None else self._write_or_replay(batch, step)
        tokens, pad_token_id = texts.tokens, self._writer.pad_token_id
        prompt, written = texts.prompt, texts.written
        # The logits of a position are those of the next token.
        generated = _shifted(ops.logical_and(written, ops.logical_not(prompt)), False)
        following = _shifted(tokens, pad_token_id)
        labels = batch.labels
        if self._settings.writes_labels:
            dtype = "int32" if labels is None else labels.dtype
            labels = ops.cast(ops.where(generated, following, -1), dtype)
        elif labels is not None:
            labels = -ops.ones_like(labels)
        return batch._replace(
            inputs=with_tokens(batch.inputs, ops.where(written, tokens, pad_token_id), written),
            labels=labels,
            sample_weight=ops.cast(generated, "float32") * texts.weights[:, None],
        )

    def _write(self, batch, step):
        """Return the texts that a model writes for the prompts of a batch."""
        writer, settings = self._writer, self._settings
        tokens = ops.cast(tokens_of(batch.inputs), "int32")
        mask = padding_mask_of(batch.inputs, writer.pad_token_id)
        prompt, weights = _prompts(mask, batch.sample_weight)
        limit = settings.max_length or ops.shape(tokens)[1]
        _check_prompts(prompt, limit)
        tokens = ops.where(prompt, tokens, writer.pad_token_id)
        seed = fold_in([settings.seed, 0], step, _replica())
        tokens = writer.write(batch.inputs, tokens, prompt, limit, seed)
        written = until_stop(tokens, prompt, limit, writer.stop_token_ids)
        lengths = [ops.sum(ops.cast(positions, "int32"), axis=1) for positions in (prompt, written)]
        return Texts(tokens, ops.stack(lengths, axis=1), weights)

    def _write_or_replay(self, batch, step):
        """Return new texts, which are stored, or stored ones."""
        replay, settings = self._replay, self._settings
        number, window = ops.shape(tokens_of(batch.inputs))
        _check_fit(number, settings.replay_size, "`replay_size` must be at least the batch size")
        _check_fit(window, settings.max_length, "With a replay buffer, `max_length` must be at least the window")

        def write():
            texts = self._write(batch, step)
            replay.add(texts)
            return texts

        draw = uniform((), fold_in([settings.seed, 2], step)) < settings.replay_ratio
        replays = ops.logical_and(draw, replay.holds(number))
        return tf.cond(replays, lambda: replay.draw(number, fold_in([settings.seed, 3], step)), write)


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
    """Return the positions of the prompts, and the weight of each example, shape `[batch]`."""
    if weights is None:
        return mask, ops.ones_like(mask[:, 0], dtype="float32")
    weights = ops.cast(weights, "float32")
    if len(weights.shape) == 1 or weights.shape[1] == 1:
        return mask, ops.reshape(weights, (-1,))
    positions, counted = ops.arange(ops.shape(mask)[1], dtype="int32"), weights != 0
    first = ops.min(ops.where(counted, positions, ops.shape(mask)[1]), axis=1, keepdims=True)
    # An example without weights does not count. Any token is its prompt.
    has_weights = ops.any(counted, axis=1, keepdims=True)
    prompt = ops.where(has_weights, ops.logical_and(mask, positions <= first), positions < 1)
    return prompt, ops.max(weights, axis=1)


def _check_prompts(prompt, limit):
    lengths = ops.sum(ops.cast(prompt, "int32"), axis=1)
    # Without an effect in steps that XLA compiles.
    message = (
        "Each prompt of `rollouts` must have at least one token and leave room for one in the window. Use a larger "
        "`max_length`, or mark the completions by sample weights, as keras_distill.language.completions does. "
        "Lengths of the prompts, and of the window:"
    )
    tf.debugging.Assert(ops.all(ops.logical_and(lengths > 0, lengths < limit)), [message, lengths, limit])


def _check_fit(length, room, rule):
    """Raise an error for a length that exceeds the room of a replay buffer, when tracing if it is known."""
    if isinstance(length, int) and length > room:
        raise ValueError(f"{rule} of a batch of `rollouts`. Received: {room} for {length}")
    tf.debugging.Assert(length <= room, [f"{rule} of a batch of `rollouts`. Received, and needed:", room, length])


def _replica():
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def _shifted(tensor, last):
    return ops.concatenate([tensor[:, 1:], ops.full_like(tensor[:, :1], last)], axis=1)
