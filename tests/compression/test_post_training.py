"""Models that Keras quantises after training."""

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


def kinds(model):
    return {weight.path: weight.dtype for weight in model.weights}


@pytest.mark.parametrize(("mode", "bound"), [("int8", 0.03), ("int4", 0.4)])
def test_outputs_stay_close_and_weights_become_integers(mode, bound):
    model, x = transformer(), sentences()
    said = np.asarray(model(x))
    copy = quantize_post_training(model, mode)
    assert np.abs(np.asarray(copy(x)) - said).mean() < bound * said.std()
    found = kinds(copy)
    # Inside of attention, too.
    assert sum("attention" in path and path.endswith("kernel") for path in found) == 4
    assert all(dtype == "int8" for path, dtype in found.items() if path.endswith(("kernel", "embeddings")))
    # What it was made from stays as it was.
    assert set(kinds(model).values()) == {"float32"}
    np.testing.assert_array_equal(model(x), said)


def test_choices_by_pattern():
    copy = quantize_post_training(transformer(), "int8", others={"logits": None, "attention/*": "int4"})
    assert copy.get_layer("logits").quantization_mode is None
    assert copy.get_layer("feedforward").quantization_mode == "int8"
    assert {layer.quantization_mode for layer in copy.get_layer("attention")._flatten_layers(include_self=False)} >= {
        "int4"
    }


def test_what_it_saves_and_that_it_is_loaded_again(tmp_path):
    model = keras.Sequential([keras.Input((256,)), LAYERS.Dense(256), LAYERS.Dense(256)], name="wide")
    x = np.random.default_rng(0).normal(size=(32, 256)).astype("float32")
    (whole,) = export(model, tmp_path, x, ["keras"], "whole")
    (small,) = export(quantize_post_training(model), tmp_path, x, ["keras"], "small")
    assert small.bytes < 0.3 * whole.bytes
    assert small.difference == 0


def test_shared_weights_stay_shared():
    model = keras.Sequential([keras.Input((8,)), *(LAYERS.Dense(8, name=f"block_{number}") for number in range(3))])
    shared = tie_weights(model, ["block_0", "block_1", "block_2"])
    copy = quantize_post_training(shared)
    # A kernel, its scales, a bias.
    assert profiling.count_parameters(copy) == 64 + 8 + 8


def test_what_keras_does_not_quantise_is_refused():
    pictures = keras.Sequential([keras.Input((6, 6, 1)), LAYERS.Conv2D(2, 3)], name="pictures")
    with pytest.raises(
        ValueError, match="'pictures' has no layer that can be quantised: Dense, EinsumDense, Embedding"
    ):
        quantize_post_training(pictures)
    with pytest.raises(ValueError, match="No layer to quantise reads like 'logit'. There: \\['embedding'"):
        quantize_post_training(transformer(), others={"logit": None})
    with pytest.raises(ValueError, match="modes \\['int8', 'int4', 'float8'\\]. Received: 'int2'"):
        quantize_post_training(transformer(), "int2")
