"""Repeated blocks of functional models."""

import keras
import pytest
from keras import layers

from keras_distill.compression import shrink
from keras_distill.compression.model_settings import evenly_spaced


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [
        (4, 0.5, [0, 2]),
        (5, 0.5, [0, 2, 4]),
        (3, 1 / 3, [0]),
        (12, 0.25, [0, 4, 8]),
        (4, 0.75, [0, 2, 3]),
        (2, 0.01, [0]),
        (6, 1.0, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_evenly_spaced(count, fraction, expected):
    assert evenly_spaced(count, fraction) == expected


def dense_chain(*widths, **options):
    hidden = [layers.Dense(width, name=f"dense_{number}", **options) for number, width in enumerate(widths)]
    return keras.Sequential([keras.Input((8,)), *hidden])


def kept(model, depth=0.5):
    return [layer.name for layer in shrink(model, depth=depth).layers]


def test_blocks_begin_at_kernels():
    def block(number):
        return [
            layers.Conv2D(8, 3, padding="same", name=f"conv_{number}"),
            layers.BatchNormalization(name=f"bn_{number}"),
            layers.ReLU(name=f"relu_{number}"),
        ]

    stages = [*block(0), *block(1), *block(2), layers.Flatten(name="flatten"), layers.Dense(2, name="logits")]
    expected = ["conv_0", "bn_0", "relu_0", "conv_1", "bn_1", "relu_1", "flatten", "logits"]
    assert kept(keras.Sequential([keras.Input((4, 4, 3)), *stages])) == expected


def test_runs_of_several_stages():
    assert kept(dense_chain(8, 8, 8, 8, 16, 16, 16, 2)) == ["dense_0", "dense_2", "dense_4", "dense_5", "dense_7"]


def test_names_seeds_and_dropout_rates_do_not_count():
    hidden = []
    for number in range(4):
        hidden.append(layers.Dense(8, name=f"layer{'abcd'[number]}"))
        hidden.append(layers.Dropout(0.1 * number, seed=number, name=f"drop{number}"))
    assert kept(keras.Sequential([keras.Input((8,)), *hidden])) == ["layera", "drop0", "layerc", "drop2"]


@pytest.mark.parametrize(
    "options", [{"activation": "relu"}, {"use_bias": False}, {"kernel_regularizer": "l2"}, {"dtype": "float64"}]
)
def test_blocks_of_other_configurations_are_kept(options):
    hidden = [layers.Dense(8, name="dense_0"), layers.Dense(8, name="dense_1", **options), layers.Dense(2, name="last")]
    with pytest.raises(ValueError, match="no repeated blocks"):
        shrink(keras.Sequential([keras.Input((4,)), *hidden]), depth=0.5)


def test_layers_without_weights_are_no_blocks():
    hidden = [layers.ReLU(name="one"), layers.ReLU(name="two"), layers.Dense(2, name="last")]
    with pytest.raises(ValueError, match="no repeated blocks"):
        shrink(keras.Sequential([keras.Input((4,)), *hidden]), depth=0.5)


def test_residual_blocks_are_kept_whole():
    inputs = keras.Input((8,))
    x = inputs
    for number in range(4):
        y = layers.Dense(8, name=f"a_{number}")(layers.Dense(8, name=f"b_{number}")(x))
        x = layers.Add(name=f"add_{number}")([x, y])
    names = kept(keras.Model(inputs, x))
    # Inside of a block, the two equal layers stay.
    assert names[1:] == ["b_0", "a_0", "add_0", "b_2", "a_2", "add_2"]


def test_blocks_with_other_second_inputs_are_kept():
    inputs = keras.Input((8,))
    gates = layers.Dense(8, name="gate_0"), layers.Dense(8, name="gate_1")
    x = layers.Dense(8, activation="relu", name="stem")(inputs)
    for number, gate in enumerate(gates):
        x = layers.Multiply(name=f"multiply_{number}")([layers.Dense(8, name=f"dense_{number}")(x), gate(inputs)])
    with pytest.raises(ValueError, match="no repeated blocks"):
        shrink(keras.Model(inputs, x), depth=0.5)


def test_a_skip_connection_over_blocks():
    inputs = keras.Input((8,))
    x = skip = layers.Dense(8, activation="relu", name="stem")(inputs)
    for number in range(4):
        x = layers.Dense(8, name=f"dense_{number}")(x)
    model = keras.Model(inputs, layers.Dense(2, name="last")(layers.Concatenate(name="join")([skip, x])))
    assert kept(model)[1:] == ["stem", "dense_0", "dense_2", "join", "last"]


def test_blocks_of_a_nested_model():
    inner = dense_chain(8, 8, 8, 8)
    inner.name = "inner"
    model = keras.Sequential([keras.Input((8,)), inner, layers.Dense(2, name="last")])
    small = shrink(model, depth=0.5)
    assert [layer.name for layer in small.get_layer("inner").layers] == ["dense_0", "dense_2"]


def test_nested_models_as_blocks():
    inputs = keras.Input((8,))
    x = inputs
    for number in range(4):
        block = keras.Sequential([keras.Input((8,)), layers.Dense(16), layers.Dense(8)], name=f"block_{number}")
        x = block(x)
    assert kept(keras.Model(inputs, x))[1:] == ["block_0", "block_2"]
