"""Small language models, texts, and gradients of losses of token logits."""

import keras
import numpy as np
import tensorflow as tf

from tests.support.helpers import features

BATCH, LENGTH, WORDS = 3, 7, 11


def language_model(dim=4, name="student", words=WORDS, seed=0, **last):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(WORDS, dim, mask_zero=True, name="embedding")(tokens)
    x = keras.layers.Dense(dim, activation="tanh", name="block")(x)
    last = {"bias_initializer": "normal", "kernel_initializer": "normal", "name": "logits"} | last
    return keras.Model(tokens, keras.layers.Dense(words, **last)(x), name=name)


def texts(batch=BATCH, length=LENGTH, seed=0):
    """Return word indices and the next ones. 0 is padding, -1 a missing label."""
    rng = np.random.default_rng(seed)
    tokens, following = rng.integers(1, WORDS, (2, batch, length))
    tokens[0, -2:] = 0
    following[-1, :2] = -1
    return tokens.astype("int32"), following.astype("int32")


def dense(dim, words=WORDS, seed=0, **options):
    layer = keras.layers.Dense(words, name="logits", **options)
    layer.build((None, dim))
    layer.set_weights([features(*weight.shape, seed=seed + index) for index, weight in enumerate(layer.weights)])
    return layer


def values_and_gradients(function, hidden, layer):
    """Return `function(hidden)` and the gradients of an unevenly weighted sum of it."""
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        values = function(hidden)
        total = tf.reduce_sum(values * tf.range(1.0, 1.0 + len(hidden)))
    return [values, *tape.gradient(total, [hidden, *(weight.value for weight in layer.trainable_weights)])]


def assert_close(results, expected, tolerance=1e-5):
    for one, other in zip(results, expected, strict=True):
        other = np.asarray(other, "float64")
        np.testing.assert_allclose(
            np.asarray(one, "float64"), other, rtol=tolerance, atol=tolerance * np.abs(other).max()
        )
