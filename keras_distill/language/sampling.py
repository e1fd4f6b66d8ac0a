"""Random choice of the next token of texts, repeatable from a seed."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill.types import Structure, Tensor
from keras_distill.utils.arguments import check_integer, check_number

# The same numbers on CPUs and GPUs. XLA has others.
_ALGORITHM = "philox"
# The smallest random number, whose logarithm is finite.
_SMALLEST = float(np.finfo("float32").tiny)


def fold_in(seed: Tensor, *numbers: Any) -> Tensor:
    """Return a seed that depends on another seed and on numbers.

    Args:
        seed: Seed, two integers.
        *numbers: Integers, such as the step.
    """
    for number in numbers:
        seed = tf.random.experimental.stateless_fold_in(seed, ops.cast(number, "int32"), alg=_ALGORITHM)
    return seed


def uniform(shape: Any, seed: Tensor) -> Tensor:
    """Return float32 random numbers in (0, 1).

    Args:
        shape: Shape.
        seed: Seed, two integers.
    """
    return tf.random.stateless_uniform(shape, seed, minval=_SMALLEST, alg=_ALGORITHM)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Distribution that the next token is drawn from.

    Args:
        temperature: Divides the logits, >= 0. 0 chooses the most probable token.
        top_k: Number of most probable words that are drawn from, >= 1. None for all.
        top_p: The most probable words up to this total probability are drawn from, in (0, 1]. None for all.

    Raises:
        ValueError: For a number out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        check_number(self.temperature, "temperature", at_least=0)
        check_integer(self.top_k, "top_k", optional=True)
        if self.top_p is not None:
            check_number(self.top_p, "top_p", above=0, at_most=1)

    def choose(self, logits: Tensor, seed: Tensor) -> Tensor:
        """Return one word index per text, int32 of shape `[batch]`.

        Args:
            logits: Shape `[batch, words]`; -inf for words that are not chosen.
            seed: Seed, two integers.
        """
        logits = ops.cast(logits, "float32")
        if self.temperature == 0:
            return ops.cast(ops.argmax(logits, axis=-1), "int32")
        logits = logits / self.temperature
        if self.top_k is not None:
            logits = _without_less_than(logits, ops.top_k(logits, min(self.top_k, logits.shape[-1]))[0][:, -1:])
        if self.top_p is not None:
            ordered = ops.flip(ops.sort(logits, axis=-1), axis=-1)
            probabilities = ops.softmax(ordered, axis=-1)
            # The most probable word always stays.
            kept = ops.cumsum(probabilities, axis=-1) - probabilities < self.top_p
            logits = _without_less_than(logits, ops.min(ops.where(kept, ordered, float("inf")), axis=-1, keepdims=True))
        # The largest sum of logit and Gumbel noise is a sample of the softmax.
        noise = -ops.log(-ops.log(uniform(ops.shape(logits), seed)))
        return ops.cast(ops.argmax(logits + noise, axis=-1), "int32")


def continue_texts(
    next_logits: Callable[[Tensor, Structure, Tensor], tuple[Tensor, Structure]],
    cache: Structure,
    tokens: Tensor,
    prompt: Tensor,
    choose: Callable[[Tensor, Tensor], Tensor],
    limit: Tensor | int,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
) -> Tensor:
    """Continue texts token by token until each has a stop token or the limit is reached.

    Args:
        next_logits: Function of tokens, cache and the index of the token to choose that returns its logits, shape
            `[batch, words]`, and the new cache.
        cache: First cache of `next_logits`.
        tokens: Prompts, integers of shape `[batch, window]`, padded at the end.
        prompt: Positions of the prompts, booleans of the same shape. Each prompt has at least one token.
        choose: Function of logits and of the index that returns word indices of shape `[batch]`.
        limit: Number of tokens of prompt and continuation.
        stop_token_ids: Word indices that end a text.
        pad_token_id: Word index that follows the stop token.

    Returns:
        Prompts with continuations, the shape of `tokens`.
    """
    positions = ops.arange(ops.shape(tokens)[1], dtype="int32")

    def unfinished(index, tokens, done, cache):
        return ops.logical_and(index < limit, ops.logical_not(ops.all(done)))

    def append(index, tokens, done, cache):
        logits, cache = next_logits(tokens, cache, index)
        # A loop needs a shape that stays the same.
        words = ops.reshape(ops.cast(choose(logits, index), tokens.dtype), ops.shape(done))
        words = ops.where(done, ops.cast(pad_token_id, tokens.dtype), words)
        given = ops.take(prompt, index, axis=1)
        words = ops.where(given, ops.take(tokens, index, axis=1), words)
        done = ops.logical_or(done, ops.logical_and(is_one_of(words, stop_token_ids), ops.logical_not(given)))
        tokens = ops.where(positions == index, words[:, None], tokens)
        return index + 1, tokens, done, cache

    start = ops.maximum(ops.min(ops.sum(ops.cast(prompt, "int32"), axis=1)), 1)
    done = ops.zeros_like(tokens[:, 0], dtype="bool")
    return ops.while_loop(unfinished, append, (start, tokens, done, cache))[1]


def is_one_of(tokens: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Return which tokens are one of a few, booleans of the shape of `tokens`.

    Args:
        tokens: Word indices.
        token_ids: The few word indices.
    """
    found = ops.zeros_like(tokens, dtype="bool")
    for token_id in token_ids:
        found = ops.logical_or(found, tokens == token_id)
    return found


def until_stop(tokens: Tensor, prompt: Tensor, limit: Tensor | int, stop_token_ids: Sequence[int]) -> Tensor:
    """Return the positions of prompts and continuations, those after the first generated stop token left out.

    Args:
        tokens: Result of `continue_texts`.
        prompt: Positions of the prompts, booleans.
        limit: Number of tokens of prompt and continuation.
        stop_token_ids: Word indices that end a text.

    Returns:
        Booleans, the shape of `tokens`.
    """
    stops = ops.cast(ops.logical_and(is_one_of(tokens, stop_token_ids), ops.logical_not(prompt)), "int32")
    before = ops.cumsum(stops, axis=1) - stops
    inside = ops.arange(ops.shape(tokens)[1], dtype="int32") < limit
    return ops.logical_or(prompt, ops.logical_and(before == 0, inside))


def _without_less_than(logits, smallest):
    return ops.where(logits < smallest, -float("inf"), logits)
