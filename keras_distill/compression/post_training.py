"""Post-training quantization (PTQ) by Keras."""

from collections.abc import Mapping

import keras

from keras_distill.compression.folding import rebuild
from keras_distill.compression.quantization import select_layers, warn_of_float_kernels
from keras_distill.utils.arguments import check_model

_QUANTIZABLE = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
MODES = ("int8", "int4", "float8")


def quantize_post_training(
    model: keras.Model, mode: str = "int8", overrides: Mapping[str, str | None] | None = None
) -> keras.Model:
    """Return a copy of a trained model with weights quantized by Keras (PTQ), for servers that run Keras.

    Keras quantizes Dense, EinsumDense (MultiHeadAttention included) and Embedding, so this function suits transformers.
    For convolutions use `quantize_aware`, and `export` for integer arithmetic on devices. In "int8" and "int4" the
    scales of activations are computed in every pass, so calibration data are not needed; "float8" quantizes activations
    during training only. A warning names the layers whose kernels stay in float.

    Args:
        model: A functional or Sequential `keras.Model`. It is not modified.
        mode: "int8", "int4" or "float8". Defaults to "int8".
        overrides: Modes of single layers, `{pattern: mode or None}`, e.g. `{"logits": None}`. A pattern is a path or
            the end of one, in which a `*` stands for any characters. The first matching pattern applies; None does not
            quantize the layer. Defaults to none.

    Returns:
        A new model. Saved in "int8" it takes about a quarter of the bytes.

    Raises:
        ValueError: If a mode is unknown, if `model` is not functional or has no layer that Keras quantizes, or if a
            pattern matches no such layer.

    Example:

    >>> small = quantize_post_training(teacher, "int8", overrides={"logits": None})
    >>> small.save("small.keras")

    Reference:
        https://keras.io/guides/quantization_overview
    """
    check_model(model, "model")
    overrides = overrides or {}
    for layer_mode in (mode, *overrides.values()):
        if layer_mode is not None and layer_mode not in MODES:
            raise ValueError(f"A quantization mode must be one of {list(MODES)}. Received: {layer_mode!r}")
    copy = rebuild(model, lambda layer: type(layer).from_config(layer.get_config()))
    copy.set_weights(model.get_weights())
    selected = select_layers(copy, _QUANTIZABLE, mode, overrides)
    warn_of_float_kernels(copy, {id(layer) for layer, _ in selected}, ())
    for layer, layer_mode in selected:
        if layer_mode is not None:
            layer.quantize(layer_mode)
    return copy
