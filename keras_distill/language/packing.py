"""Prompts and responses as training examples of causal language models."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_distill.types import Tensor

PROMPTS, RESPONSES = "prompts", "responses"
_EMPTY = "A response has no tokens. Remove examples with an empty response. Indices in the batch:"
_TOO_LONG = (
    "A prompt fills the window, so that no token of its response is left. Shorten the prompt, or increase the "
    "`sequence_length` of the preprocessor. Indices in the batch:"
)


def completions(preprocessor: Any) -> Callable[..., tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Return a function from prompts and responses to training examples of a causal language model.

    The function is for `tf.data.Dataset.map`, before or after `batch`, and for batches of texts. It takes prompts and
    responses, as two arguments or as a dictionary `{"prompts": ..., "responses": ...}`; texts alone are responses to
    empty prompts. It returns `(x, y, sample_weight)` as the preprocessor does, with another `sample_weight`:

    ```
    tokens         start token, prompt, response, end token, padding
    x              tokens without the last; y: tokens without the first, the target of each position
    sample_weight  1 where the target is a token of the response or the end token; 0 in the prompt and the padding
    ```

    Prompt and response are tokenized separately, so that a token never belongs to both: end the prompt, or begin the
    response, with the space or the line break between them. Long responses are truncated to the window; the end token
    that the preprocessor puts after a truncated one has weight 0. One example takes one window; examples are not packed
    together, since KerasHub's models would attend from one to another.

    Args:
        preprocessor: `keras_hub.models.CausalLMPreprocessor` of texts. Its `sequence_length`, `add_start_token` and
            `add_end_token` count. 128 to 1024 tokens are typical.

    Returns:
        A function that returns `x`, a dictionary of `token_ids` and `padding_mask`, `y` and `sample_weight`, each of
        shape `[batch, sequence_length]`. It raises ValueError for an empty response and for a prompt that leaves no
        room for its response; in a `tf.data` pipeline, the iterator raises the same text.

    Raises:
        ValueError: If `preprocessor` is not a preprocessor of texts that pads at the end.

    Example:

    >>> def examples(preprocessor, prompts, responses):
    ...     dataset = tf.data.Dataset.from_tensor_slices({"prompts": prompts, "responses": responses})
    ...     return dataset.batch(32).map(completions(preprocessor))
    """
    pack = packer(preprocessor)

    def packed(prompts, responses):
        token_ids, padding_mask, counted = pack(prompts, responses)
        x = {"token_ids": token_ids[:, :-1], "padding_mask": padding_mask[:, :-1]}
        return x, token_ids[:, 1:], tf.cast(counted[:, 1:], "float32")

    return on_texts(packed)


def on_texts(packed: Callable[[Tensor, Tensor], Any]) -> Callable[..., Any]:
    """Return a function of prompts and responses in every form that `completions` takes.

    Args:
        packed: Function of a batch of prompts and a batch of responses.
    """

    def examples(prompts, responses=None):
        if isinstance(prompts, dict):
            prompts, responses = prompts[PROMPTS], prompts[RESPONSES]
        elif responses is None:
            prompts, responses = tf.fill(tf.shape(tf.convert_to_tensor(prompts)), ""), prompts
        prompts, responses = tf.convert_to_tensor(prompts), tf.convert_to_tensor(responses)
        if responses.shape.rank == 0:
            return tf.nest.map_structure(lambda tensor: tensor[0], packed(prompts[None], responses[None]))
        return packed(prompts, responses)

    return examples


def packer(preprocessor: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Return a function from a batch of prompts and one of responses to windows of tokens.

    Args:
        preprocessor: `keras_hub.models.CausalLMPreprocessor` of texts.

    Returns:
        A function that returns the tokens, their padding mask and which of them count, those of responses and end
        tokens; each of shape `[batch, sequence_length + 1]`.

    Raises:
        ValueError: If `preprocessor` is not a preprocessor of texts that pads at the end.
    """
    _check_preprocessor(preprocessor)
    window = preprocessor.sequence_length + 1

    # Inside of a function, a tokenizer and a packer return tensors, ragged ones included, without conversion.
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)] * 2)
    def tokenized(prompts, responses):
        tokenizer, packer = preprocessor.tokenizer, preprocessor.packer
        prompt, response = tokenizer(prompts), tokenizer(responses)
        token_ids, padding_mask = packer(
            tf.concat([prompt, response], axis=1),
            sequence_length=window,
            add_start_value=preprocessor.add_start_token,
            add_end_value=preprocessor.add_end_token,
        )
        return token_ids, padding_mask, prompt.row_lengths(), response.row_lengths()

    def packed(prompts, responses):
        token_ids, padding_mask, *lengths = tokenized(prompts, responses)
        prompt, response = (tf.cast(length, "int32") for length in lengths)
        start, end = _num_added(preprocessor)
        _check(response > 0, _EMPTY)
        _check(start + prompt + end < window, _TOO_LONG)
        positions = tf.range(window)
        counted = tf.logical_and(padding_mask, positions >= (start + prompt)[:, None])
        is_truncated = start + prompt + response + end > window
        counted &= ~tf.logical_and(is_truncated[:, None], positions >= window - end)
        return token_ids, padding_mask, counted

    return packed


def _check_preprocessor(preprocessor):
    fits = all(hasattr(preprocessor, name) for name in ("tokenizer", "sequence_length", "generate_preprocess"))
    if fits and not preprocessor.built:
        preprocessor.build(None)
    packer = getattr(preprocessor, "packer", None)
    if not fits or not hasattr(packer, "start_value") or getattr(packer, "padding_side", "right") != "right":
        raise ValueError(
            "`preprocessor` must be a keras_hub.models.CausalLMPreprocessor of texts that pads at the end, such as "
            f"`model.preprocessor`. Received: {preprocessor!r}"
        )


def _num_added(preprocessor):
    """Return the number of start tokens and of end tokens that the packer adds."""
    packer = preprocessor.packer
    start = len(packer.start_value or ()) if preprocessor.add_start_token else 0
    return start, len(packer.end_value or ()) if preprocessor.add_end_token else 0


def _check(fits, message):
    invalid = tf.where(~fits)[:, 0]
    if not tf.executing_eagerly():
        tf.debugging.Assert(tf.reduce_all(fits), [message, invalid])
    elif len(invalid):
        raise ValueError(f"{message} {invalid.numpy().tolist()}")
