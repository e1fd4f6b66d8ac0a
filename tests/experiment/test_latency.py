"""Prediction latency."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.experiment.latency import Latency, measure_latencies
from tests.support.helpers import data, mlp


@pytest.mark.case("C9")
def test_one_architecture_is_measured_once():
    models = {
        "teacher": mlp(64, name="teacher"),
        "baseline": mlp(name="a"),
        "distilled": mlp(name="b"),
        "other": mlp(9),
    }
    x, _ = data()
    latencies = measure_latencies(models, x, batch_size=40, repeats=3)
    assert list(latencies) == list(models)
    assert latencies["baseline"] == latencies["distilled"] and len(set(latencies.values())) == 3
    for latency in latencies.values():
        assert 0 < latency.low <= latency.median <= latency.high and latency.batch_size == 40


def test_slow_models_are_measured_with_less_work():
    class Slow(keras.layers.Layer):
        def call(self, x):
            def wait(x):
                time.sleep(0.01 * len(x))
                return x

            return tf.ensure_shape(tf.numpy_function(wait, [x], tf.float32), x.shape)

    model = keras.Sequential([keras.Input((4,)), Slow(), keras.layers.Dense(2)])
    # 128 examples take 1.3 s; in 0.3 s, 3 batches of at most 10 can be measured.
    latency = measure_latencies({"slow": model}, np.ones((8, 4), "float32"), seconds=0.3)["slow"]
    assert 1 <= latency.batch_size <= 10 and latency.median >= 10


def test_text_has_three_digits():
    assert Latency(0.012345, 0.01, 0.02, 128).text() == "0.0123"
