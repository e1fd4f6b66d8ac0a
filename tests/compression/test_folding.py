"""Batch-norm folding."""

import keras
import numpy as np
import pytest

from keras_distill.compression import fold_batch_norm


def trained_statistics(model):
    """The model with nontrivial weights and statistics, as after training."""
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
def test_outputs_stay_the_same_without_batch_norm(make):
    model = trained_statistics(make())
    before = model.get_weights()
    folded = fold_batch_norm(model)
    x = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)
    remaining = [layer for layer in folded._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert remaining == []
    assert folded.count_params() < model.count_params()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def dense(*layers, activation=None):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(4, activation=activation, name="dense")(inputs)
    for layer in layers:
        x = layer(x)
    return inputs, x


def activated():
    inputs, x = dense(activation="relu")
    return keras.Model(inputs, keras.layers.BatchNormalization()(x))


def used_twice():
    inputs, x = dense()
    return keras.Model(inputs, [keras.layers.BatchNormalization()(x), keras.layers.Dense(2, name="other")(x)])


def returned():
    inputs, x = dense()
    return keras.Model(inputs, [keras.layers.BatchNormalization()(x), x])


def called_twice():
    inputs = keras.Input((8,))
    dense = keras.layers.Dense(8)
    return keras.Model(inputs, keras.layers.BatchNormalization()(dense(dense(inputs))))


def shared_normalization():
    inputs = keras.Input((8,))
    normalization = keras.layers.BatchNormalization()
    x = normalization(keras.layers.Dense(8)(inputs))
    return keras.Model(inputs, normalization(keras.layers.Dense(8)(x)))


@pytest.mark.parametrize("make", [activated, used_twice, returned, called_twice, shared_normalization])
def test_does_not_fold_where_outputs_would_change(make):
    model = trained_statistics(make())
    folded = fold_batch_norm(model)
    assert folded.count_params() == model.count_params()
    x = np.random.default_rng(1).normal(size=(4, 8)).astype("float32")
    for one, other in zip(keras.tree.flatten(folded(x)), keras.tree.flatten(model(x)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_rejects_subclassed_models():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model.name = "plain"
    with pytest.raises(ValueError, match="'plain' is not a functional or Sequential model"):
        fold_batch_norm(model)
