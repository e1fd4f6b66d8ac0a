"""What models cost."""

import keras
import numpy as np
import pytest

from keras_distill.compression import footprint, share

LAYERS = keras.layers


def model_of(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


# Worked by hand: outputs times what each of them sums.
CASES = {
    "dense": (model_of((8,), LAYERS.Dense(4)), 8 * 4),
    "dense on tokens": (model_of((5, 8), LAYERS.Dense(4)), 5 * 8 * 4),
    "convolution": (model_of((6, 6, 2), LAYERS.Conv2D(4, 3)), 4 * 4 * 4 * (3 * 3 * 2)),
    "strides and padding": (model_of((6, 6, 2), LAYERS.Conv2D(4, 3, 2, padding="same")), 3 * 3 * 4 * (3 * 3 * 2)),
    "depthwise": (model_of((6, 6, 2), LAYERS.DepthwiseConv2D(3, depth_multiplier=2)), 4 * 4 * 4 * (3 * 3)),
    "separable": (
        model_of((6, 6, 2), LAYERS.SeparableConv2D(5, 3)),
        4 * 4 * 2 * (3 * 3) + 4 * 4 * 5 * 2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_multiply_adds(case):
    model, count = CASES[case]
    assert footprint.multiply_adds(model) == count


def test_multiply_adds_of_attention():
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, LAYERS.MultiHeadAttention(2, 4)(inputs, inputs))
    # Query, key, value and output projections; scores; their sums of values.
    assert footprint.multiply_adds(model) == 4 * 5 * 8 * 8 + 5 * 5 * 8 + 5 * 5 * 8


def test_shared_weights_count_once_and_shared_work_as_often_as_it_is_done():
    layers = [LAYERS.Dense(8, name=f"block_{number}") for number in range(3)]
    model = model_of((8,), *layers)
    shared = share(model, [layer.name for layer in layers])
    assert footprint.parameters(model) == 3 * 72 and footprint.parameters(shared) == 72
    assert footprint.multiply_adds(shared) == footprint.multiply_adds(model) == 3 * 64


def test_unknown_lengths_are_refused():
    model = model_of((None, 8), LAYERS.Dense(4))
    with pytest.raises(ValueError, match="unknown shapes"):
        footprint.multiply_adds(model)


def test_latency_is_that_of_the_function():
    calls = []

    def run(x):
        calls.append(x)
        return x

    taken = footprint.latency(run, np.ones((1, 2)), repeats=20)
    assert len(calls) == 30
    assert 0 < taken.median <= taken.p95 < 50
