"""Post-training quantization by Keras."""

import keras
import numpy as np
import pytest

from keras_distill.compression import export, profiling, quantize_post_training, tie_weights

LAYERS = keras.layers


def transformer():
    tokens = keras.Input((6,), dtype="int32")
    x = LAYERS.Embedding(20, 32, name="embedding")(tokens)
    x = LAYERS.Add()([x, LAYERS.MultiHeadAttention(2, 16, name="attention")(x, x)])
    x = LAYERS.Add()([x, LAYERS.Dense(32, activation="relu", name="feedforward")(x)])
    return keras.Model(tokens, LAYERS.Dense(5, name="logits")(LAYERS.GlobalAveragePooling1D()(x)), name="student")


def sentences():
    return np.random.default_rng(0).integers(0, 20, (64, 6)).astype("int32")


def dtypes(model):
    return {weight.path: weight.dtype for weight in model.weights}


@pytest.mark.parametrize(("mode", "bound"), [("int8", 0.03), ("int4", 0.4)])
def test_outputs_stay_close_and_weights_become_integers(mode, bound):
    model, x = transformer(), sentences()
    expected = np.asarray(model(x))
    copy = quantize_post_training(model, mode)
    assert np.abs(np.asarray(copy(x)) - expected).mean() < bound * expected.std()
    copy_dtypes = dtypes(copy)
    # Four of them are inside of the attention layer.
    assert sum("attention" in path and path.endswith("kernel") for path in copy_dtypes) == 4
    assert all(dtype == "int8" for path, dtype in copy_dtypes.items() if path.endswith(("kernel", "embeddings")))
    # The original is not modified.
    assert set(dtypes(model).values()) == {"float32"}
    np.testing.assert_array_equal(model(x), expected)


def test_overrides_by_pattern():
    copy = quantize_post_training(transformer(), "int8", overrides={"logits": None, "attention/*": "int4"})
    assert copy.get_layer("logits").quantization_mode is None
    assert copy.get_layer("feedforward").quantization_mode == "int8"
    assert {layer.quantization_mode for layer in copy.get_layer("attention")._flatten_layers(include_self=False)} >= {
        "int4"
    }


def test_saved_size_and_reload(tmp_path):
    model = keras.Sequential([keras.Input((256,)), LAYERS.Dense(256), LAYERS.Dense(256)], name="wide")
    x = np.random.default_rng(0).normal(size=(32, 256)).astype("float32")
    (original,) = export(model, tmp_path, x, ["keras"], "original")
    (small,) = export(quantize_post_training(model), tmp_path, x, ["keras"], "small")
    assert small.bytes < 0.3 * original.bytes
    assert small.difference == 0


def test_tied_weights_stay_tied():
    model = keras.Sequential([keras.Input((8,)), *(LAYERS.Dense(8, name=f"block_{number}") for number in range(3))])
    tied = tie_weights(model, ["block_0", "block_1", "block_2"])
    copy = quantize_post_training(tied)
    # One kernel, its scales and a bias.
    assert profiling.count_parameters(copy) == 64 + 8 + 8


def test_rejects_what_keras_does_not_quantize():
    images = keras.Sequential([keras.Input((6, 6, 1)), LAYERS.Conv2D(2, 3)], name="images")
    with pytest.raises(
        ValueError, match="'images' has no layer that can be quantized \\(Dense, EinsumDense, Embedding\\)"
    ):
        quantize_post_training(images)
    with pytest.raises(ValueError, match="No layer to quantize matches 'logit'. Layers: \\['embedding'"):
        quantize_post_training(transformer(), overrides={"logit": None})
    with pytest.raises(ValueError, match="one of \\['int8', 'int4', 'float8'\\]. Received: 'int2'"):
        quantize_post_training(transformer(), "int2")


def test_layers_that_stay_in_float_are_named():
    inputs = keras.Input((6, 6, 2))
    x = LAYERS.Flatten()(LAYERS.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, LAYERS.Dense(2, name="logits")(x), name="student")
    with pytest.warns(UserWarning, match=r"1 layers of .* stay in float: 'conv' \(Conv2D\)\."):
        small = quantize_post_training(model)
    assert small.get_layer("conv").kernel.dtype == "float32" and small.get_layer("logits").kernel.dtype == "int8"
