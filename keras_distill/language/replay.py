"""Replay buffer: texts that a model wrote in earlier steps of on-policy training."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_distill.distribution import replicas
from keras_distill.language.decoding import tokens_of
from keras_distill.language.sampling import uniform
from keras_distill.types import Structure, Tensor


class Texts(NamedTuple):
    """Prompts with their continuations.

    Attributes:
        tokens: Word indices, int32, shape `[batch, window]`, padded at the end.
        lengths: Number of tokens of each prompt and of each text, int32, shape `[batch, 2]`.
        weights: Weight of each example, float32, shape `[batch]`.
    """

    tokens: Tensor
    lengths: Tensor
    weights: Tensor

    @property
    def prompt(self) -> Tensor:
        """Positions of the prompts, booleans of shape `[batch, window]`."""
        return self._positions < self.lengths[:, :1]

    @property
    def written(self) -> Tensor:
        """Positions of prompts and continuations, booleans of shape `[batch, window]`."""
        return self._positions < self.lengths[:, 1:]

    @property
    def _positions(self):
        return ops.arange(ops.shape(self.tokens)[1], dtype="int32")


class ReplayBuffer:
    """The latest texts, in variables that are saved with the distiller.

    Args:
        size: Number of texts.
        window: Number of tokens of each.

    Attributes:
        state: The variables.
    """

    def __init__(self, size: int, window: int):
        self.size = size
        shapes = Texts((size, window), (size, 2), (size,))
        dtypes = Texts("int32", "int32", "float32")
        self._texts = Texts(*(_variable(shape, dtype) for shape, dtype in zip(shapes, dtypes)))
        # Number of texts that were added: exact up to `size`, after that modulo `size` and at least `size`.
        self._count = _variable((), "int32")

    @property
    def state(self) -> tuple[keras.Variable, ...]:
        """The variables, which change during training."""
        return (*self._texts, self._count)

    def holds(self, number: Tensor | int) -> Tensor:
        """Return whether there are that many texts."""
        return self._count >= number

    def add(self, texts: Texts) -> None:
        """Store the texts of a step in place of the oldest ones.

        Args:
            texts: At most as many as the buffer has room for.
        """
        number = ops.shape(texts.tokens)[0]
        rows = (self._count + ops.arange(number, dtype="int32")) % self.size
        for variable, values in zip(self._texts, texts):
            variable.assign(ops.scatter_update(variable, rows[:, None], values))
        total = self._count + number
        self._count.assign(ops.where(total < self.size, total, self.size + total % self.size))

    def draw(self, number: Tensor | int, seed: Tensor) -> Texts:
        """Return texts that are drawn at random, with replacement.

        Args:
            number: Number of texts.
            seed: Seed, two integers.
        """
        stored = ops.minimum(self._count, self.size)
        rows = ops.cast(uniform((number,), seed) * ops.cast(stored, "float32"), "int32")
        # A product may be rounded up to the number of texts.
        rows = ops.minimum(rows, stored - 1)
        return Texts(*(ops.take(variable, rows, axis=0) for variable in self._texts))


def connect_replay(size: int | None, max_length: int | None, inputs: Structure) -> ReplayBuffer | None:
    """Return the replay buffer of rollouts; None without replay.

    Args:
        size: Number of texts, or None.
        max_length: Number of tokens of prompt and continuation, or None.
        inputs: Structure of `tf.TensorSpec` of the inputs of a batch.

    Raises:
        ValueError: If `max_length` is missing or shorter than the windows of the batches, and for several replicas.
    """
    if size is None:
        return None
    window: Any = tokens_of(inputs).shape[1]
    if max_length is None or (window is not None and window > max_length):
        shortest = "the `sequence_length` of the preprocessor" if window is None else window
        raise ValueError(
            "A replay buffer stores texts of `max_length` tokens, which must be at least the window of the batches. "
            f"Pass Rollouts(max_length={shortest}). Received: max_length={max_length}"
        )
    if replicas.num_replicas() > 1:
        raise ValueError(
            f"Rollouts with `replay_size` train on one replica, but the strategy has {replicas.num_replicas()}. Leave "
            "`replay_size` out, or train on one device."
        )
    return ReplayBuffer(size, max_length)


def _variable(shape, dtype):
    return keras.Variable(ops.zeros(shape, dtype), dtype=dtype, trainable=False, name="replay")
