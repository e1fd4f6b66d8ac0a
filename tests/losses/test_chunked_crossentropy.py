"""Values, gradients and training of `ChunkedCrossentropy`, compared with the cross-entropy of Keras."""

import keras
import numpy as np
import tensorflow as tf

from keras_distill import Distiller, HiddenStates
from keras_distill.losses import ChunkedCrossentropy
from tests.support.helpers import assert_same_weights, features, fitted, weights_of
from tests.support.language_models import (
    BATCH,
    LENGTH,
    assert_close,
    dense,
    language_model,
    texts,
    values_and_gradients,
)


def test_crossentropy_equals_that_of_keras():
    layer = dense(4)
    hidden, (_, labels) = tf.constant(features(BATCH, LENGTH, 4)), texts()
    weight = np.random.default_rng(3).random((BATCH, LENGTH)).astype("float32") * (labels >= 0)
    chunked = ChunkedCrossentropy(layer, tokens=4)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = values_and_gradients(
        lambda h: plain(np.maximum(labels, 0), layer(h), weight) * tf.ones(BATCH), hidden, layer
    )
    result = values_and_gradients(lambda h: chunked(labels, h, weight) * tf.ones(BATCH), hidden, layer)
    assert_close(result, expected)
    assert np.all(np.asarray(chunked.call(labels, hidden))[labels < 0] == 0)


def test_crossentropy_trains_a_baseline():
    x, y = texts(8)
    y = np.maximum(y, 0)
    weights = []
    for chunked in (True, False):
        model = language_model()
        plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        loss = ChunkedCrossentropy(model.get_layer("logits"), tokens=4) if chunked else plain
        trained = HiddenStates(model) if chunked else model
        trained.compile(keras.optimizers.SGD(0.5), loss)
        fitted(trained, x, y)
        weights.append(weights_of(model))
    assert_same_weights(*weights, atol=1e-6)


def test_one_loss_trains_several_students():
    x, y = texts(8)
    loss, distillers = ChunkedCrossentropy("logits", tokens=4), []
    for seed in range(2):
        student = HiddenStates(language_model(seed=seed))
        distiller = Distiller(student=student, teacher=None)
        distiller.compile(keras.optimizers.SGD(0.0), loss)
        distillers.append((distiller, student))
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    for seed, (distiller, _) in enumerate(distillers):
        values = np.array(plain(np.maximum(y, 0), language_model(seed=seed)(x)))
        counted = (y >= 0) & (x != 0)
        expected = values[counted].mean()
        np.testing.assert_allclose(distiller.evaluate(x, y, verbose=0, return_dict=True)["loss"], expected, rtol=1e-4)
