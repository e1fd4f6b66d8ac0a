"""Logits of the next token of texts, from causal language models of KerasHub and from any model of tokens."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_distill.models.lm_head import HiddenStates
from keras_distill.models.softmax import logits_of
from keras_distill.models.specs import Spec, own_inputs, trace
from keras_distill.types import Structure, Tensor

TOKENS, MASK = "token_ids", "padding_mask"


def tokens_of(inputs: Structure) -> Tensor:
    """Return the tokens among the inputs of a language model, shape `[batch, window]`.

    Args:
        inputs: A tensor of tokens, or a dictionary with "token_ids".
    """
    return inputs[TOKENS] if isinstance(inputs, dict) else inputs


def padding_mask_of(inputs: Structure, pad_token_id: int) -> Tensor:
    """Return which positions hold a token, booleans of shape `[batch, window]`.

    Args:
        inputs: A tensor of tokens, or a dictionary with "token_ids" and "padding_mask".
        pad_token_id: Word index of the padding, for inputs without a mask.
    """
    if isinstance(inputs, dict) and MASK in inputs:
        return ops.cast(inputs[MASK], "bool")
    return tokens_of(inputs) != pad_token_id


def with_tokens(inputs: Structure, tokens: Tensor, mask: Tensor) -> Structure:
    """Return inputs of a language model with other tokens.

    Args:
        inputs: A tensor of tokens, or a dictionary with "token_ids".
        tokens: The tokens.
        mask: Which positions hold a token, booleans of the same shape.
    """
    tokens = ops.cast(tokens, tokens_of(inputs).dtype)
    if not isinstance(inputs, dict):
        return tokens
    masks = {MASK: ops.cast(mask, inputs[MASK].dtype)} if MASK in inputs else {}
    return {**inputs, TOKENS: tokens, **masks}


def whole_model(model: Any) -> Any:
    """Return the model of logits of a model of hidden states; any other model is returned as it is."""
    return model.model if isinstance(model, HiddenStates) else model


class ModelDecoder:
    """Next logits of a model. One of KerasHub keeps its keys and values; another one runs on the whole window.

    Args:
        model: Causal language model: `keras.Model` of tokens, or of a dictionary as KerasHub's backbones take.
        inputs: Structure of `tf.TensorSpec` of the inputs of a batch.

    Attributes:
        spec: `Spec` of the logits, or a structure of several for a model of several outputs.
    """

    def __init__(self, model: keras.Model, inputs: Structure):
        self.model = whole_model(model)
        self.spec = trace(self._outputs, inputs)
        self._is_cached = hasattr(self.model, "generate_step") and hasattr(self.model, "call_with_cache")

    def run(self, inputs: Structure, prompt: Tensor, body: Callable[[Callable, Structure], Tensor]) -> Tensor:
        """Return `body(next_logits, cache)`, the tokens of texts that begin with prompts.

        Args:
            inputs: Inputs of the model, of which the tokens hold the prompts.
            prompt: Positions of the prompts, booleans of shape `[batch, window]`.
            body: Function of `next_logits` and of its first cache, see `continue_texts`.
        """
        if not self._is_cached:
            return OutputsDecoder(self._outputs, self.spec).run(inputs, prompt, body)

        def sampler(next, cache, **_):
            def next_logits(tokens, cache, index):
                logits, _, cache = next(tokens, cache, index)
                return logits, cache

            return body(next_logits, cache)

        # The step of KerasHub with another sampler. The model's own is left as it is: replicas share the model.
        step = type(self.model).generate_step
        own = own_inputs(self.model, with_tokens(inputs, tokens_of(inputs), prompt))
        return step(_WithSampler(self.model, sampler), own)[TOKENS]

    def _outputs(self, inputs):
        return self.model(own_inputs(self.model, inputs), training=False)


class OutputsDecoder:
    """Next logits of a function of the inputs, which is computed on the whole window for each token.

    Args:
        outputs: Function from inputs to logits of shape `[batch, window, words]`, or to probabilities.
        spec: `Spec` of the outputs.
    """

    def __init__(self, outputs: Callable[[Structure], Tensor], spec: Spec):
        self.outputs, self.spec = outputs, spec

    def run(self, inputs: Structure, prompt: Tensor, body: Callable[[Callable, Structure], Tensor]) -> Tensor:
        """Return `body(next_logits, cache)`, see `ModelDecoder.run`."""
        positions = ops.arange(ops.shape(prompt)[1], dtype="int32")

        def next_logits(tokens, cache, index):
            window = with_tokens(inputs, tokens, ops.logical_or(prompt, positions < index))
            logits = logits_of(self.outputs(window), self.spec)
            return ops.take(logits, index - 1, axis=1), cache

        return body(next_logits, ())


class _WithSampler:
    """Model of KerasHub with another sampler."""

    def __init__(self, model, sampler):
        self._model, self.sampler = model, sampler

    def __getattr__(self, name):
        return getattr(self._model, name)
