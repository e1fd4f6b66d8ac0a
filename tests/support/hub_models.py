"""Tiny causal language models of KerasHub, with a tokenizer of single letters, spaces and "ab"."""

import keras
import keras_hub
import numpy as np

WINDOW = 10
_PARTS = [*"!abcdefghijklmnopqrstuvwxyz", "Ġ", "ab", "<|endoftext|>"]
WORDS = len(_PARTS)
END = WORDS - 1


def gpt2_preprocessor(window=WINDOW, **options):
    vocabulary = {part: index for index, part in enumerate(_PARTS)}
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary=vocabulary, merges=["a b"])
    return keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=window, **options)


def gpt2(seed, preprocessor=None, window=WINDOW, words=WORDS, **options):
    # Without dropout, the losses of a training step are those of the predictions.
    backbone = keras_hub.models.GPT2Backbone(words, 1, 2, 8, 16, dropout=0, max_sequence_length=window, **options)
    return keras_hub.models.GPT2CausalLM(randomized(backbone, seed), preprocessor=preprocessor)


def llama(seed):
    backbone = keras_hub.models.LlamaBackbone(WORDS, 1, 2, hidden_dim=8, intermediate_dim=16, num_key_value_heads=1)
    return keras_hub.models.LlamaCausalLM(randomized(backbone, seed))


def randomized(model, seed):
    """Set all weights to large numbers, so that greedy texts vary."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape).astype(weight.dtype) for weight in model.weights])
    return model


def recurrent(seed, words=WORDS):
    """Causal model of one tensor of tokens, whose padding is 0."""
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(words, 8, mask_zero=True)(tokens)
    x = keras.layers.GRU(8, return_sequences=True)(x)
    return randomized(keras.Model(tokens, keras.layers.Dense(words, name="logits")(x)), seed)


def prompts(window=WINDOW):
    """Prompts of 2, 5 and 3 tokens as KerasHub packs them, and their lengths."""
    lengths = np.array([2, 5, 3])
    mask = np.arange(window) < lengths[:, None]
    tokens = np.random.default_rng(0).integers(1, END, mask.shape) * mask
    return {"token_ids": tokens.astype("int32"), "padding_mask": mask}, lengths
