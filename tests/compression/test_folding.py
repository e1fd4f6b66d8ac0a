"""Normalisation that weights take up."""

import keras
import numpy as np
import pytest

from keras_distill.compression import fold_batch_norm


def trained_statistics(model):
    """The model with weights and statistics as of a training, none of them trivial."""
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.2, 1.0, weight.shape) for weight in model.get_weights()])
    return model


def convolutional():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False, padding="same", name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="conv_bn")(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization(scale=False, name="depthwise_bn")(x))
    x = layers.Dense(5, name="dense")(layers.GlobalAveragePooling2D()(x))
    x = layers.BatchNormalization(center=False, name="dense_bn")(x)
    return keras.Model(inputs, x, name="convolutional")


def sequential():
    layers = [keras.layers.Conv1D(4, 3, name="conv"), keras.layers.BatchNormalization(name="conv_bn")]
    return keras.Sequential([keras.Input((8, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(2)])


def nested():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Dense(2)(convolutional()(inputs)), name="nested")


@pytest.mark.parametrize("make", [convolutional, sequential, nested])
def test_computes_the_same_without_normalisation(make):
    model = trained_statistics(make())
    before = model.get_weights()
    folded = fold_batch_norm(model)
    x = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)
    left = [layer for layer in folded._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert left == []
    assert folded.count_params() < model.count_params()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def after(*between, activation=None):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(4, activation=activation, name="dense")(inputs)
    for layer in between:
        x = layer(x)
    return inputs, x


def activated():
    inputs, x = after(activation="relu")
    return keras.Model(inputs, keras.layers.BatchNormalization()(x))


def used_twice():
    inputs, x = after()
    return keras.Model(inputs, [keras.layers.BatchNormalization()(x), keras.layers.Dense(2, name="other")(x)])


def returned():
    inputs, x = after()
    return keras.Model(inputs, [keras.layers.BatchNormalization()(x), x])


def called_twice():
    inputs = keras.Input((8,))
    dense = keras.layers.Dense(8)
    return keras.Model(inputs, keras.layers.BatchNormalization()(dense(dense(inputs))))


def shared_normalisation():
    inputs = keras.Input((8,))
    normalization = keras.layers.BatchNormalization()
    x = normalization(keras.layers.Dense(8)(inputs))
    return keras.Model(inputs, normalization(keras.layers.Dense(8)(x)))


@pytest.mark.parametrize("make", [activated, used_twice, returned, called_twice, shared_normalisation])
def test_what_would_compute_something_else_is_left(make):
    model = trained_statistics(make())
    folded = fold_batch_norm(model)
    assert folded.count_params() == model.count_params()
    x = np.random.default_rng(1).normal(size=(4, 8)).astype("float32")
    for one, other in zip(keras.tree.flatten(folded(x)), keras.tree.flatten(model(x)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_models_that_are_not_functional_are_refused():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    with pytest.raises(ValueError, match="Only functional models can be rebuilt, and 'plain' is none"):
        model = Subclassed()
        model.name = "plain"
        fold_batch_norm(model)
