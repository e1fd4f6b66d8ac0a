"""Keras' own quantization, after training."""

import keras

from keras_distill.compression.folding import rebuild
from keras_distill.compression.quantization import choose_bits

_KINDS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
MODES = ("int8", "int4", "float8")


def quantize_post_training(model, mode="int8", others=None):
    """A copy of a trained model that Keras has quantised, for servers that run Keras itself.

    ```python
    small = keras_quantized(student, "int8", others={"logits": None})
    small.save("small.keras")  # a quarter of the bytes
    ```

    Keras quantises Dense, EinsumDense (so MultiHeadAttention, too) and Embedding: transformers, not convolutions, which
    `quantized` rounds and `export` writes as integers. Activations are rounded with scales of their own in every pass,
    so that no examples are needed; in "float8" only while training goes on.

    Args:
        model: A functional or Sequential `keras.Model`; it stays as it is.
        mode: "int8", "int4" or "float8".
        others: `{pattern of layers' paths: mode, or None}`, as of `quantized`; the first that fits counts. None leaves
            a layer as it is.

    Raises:
        ValueError: If the model is not functional, has no layer that Keras quantises, or a pattern names none; for
            another mode.

    Reference:
        https://keras.io/guides/quantization_overview
    """
    others = others or {}
    for each in (mode, *others.values()):
        if each is not None and each not in MODES:
            raise ValueError(f"Keras quantises in the modes {list(MODES)}. Received: {each!r}.")
    copy = rebuild(model, lambda layer: type(layer).from_config(layer.get_config()))
    copy.set_weights(model.get_weights())
    for layer, each in choose_bits(copy, _KINDS, mode, others):
        if each is not None:
            layer.quantize(each)
    return copy
