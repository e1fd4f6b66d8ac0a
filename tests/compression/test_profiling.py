"""Profiles of models and exported files."""

import keras
import numpy as np
import pytest

from keras_distill.compression import export, profiling, tie_weights

LAYERS = keras.layers


def model_of(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


# Worked by hand: number of outputs times the terms of each sum.
CASES = {
    "dense": (model_of((8,), LAYERS.Dense(4)), 8 * 4),
    "dense on tokens": (model_of((5, 8), LAYERS.Dense(4)), 5 * 8 * 4),
    "convolution": (model_of((6, 6, 2), LAYERS.Conv2D(4, 3)), 4 * 4 * 4 * (3 * 3 * 2)),
    "strides and padding": (model_of((6, 6, 2), LAYERS.Conv2D(4, 3, 2, padding="same")), 3 * 3 * 4 * (3 * 3 * 2)),
    # Every input value is multiplied with the kernel of every output channel.
    "transposed": (model_of((5, 5, 2), LAYERS.Conv2DTranspose(4, 3, 2)), 5 * 5 * 2 * (3 * 3 * 4)),
    "three axes": (model_of((4, 4, 4, 2), LAYERS.Conv3D(3, 3)), 2 * 2 * 2 * 3 * (3 * 3 * 3 * 2)),
    "depthwise": (model_of((6, 6, 2), LAYERS.DepthwiseConv2D(3, depth_multiplier=2)), 4 * 4 * 4 * (3 * 3)),
    "separable": (
        model_of((6, 6, 2), LAYERS.SeparableConv2D(5, 3)),
        4 * 4 * 2 * (3 * 3) + 4 * 4 * 5 * 2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_multiply_adds(case):
    model, count = CASES[case]
    assert profiling.count_multiply_adds(model) == count


def test_multiply_adds_of_attention():
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, LAYERS.MultiHeadAttention(2, 4)(inputs, inputs))
    # Query, key, value and output projections; attention scores; weighted sums of values.
    assert profiling.count_multiply_adds(model) == 4 * 5 * 8 * 8 + 5 * 5 * 8 + 5 * 5 * 8


def test_tied_weights_count_once_and_their_operations_once_per_call():
    layers = [LAYERS.Dense(8, name=f"block_{number}") for number in range(3)]
    model = model_of((8,), *layers)
    tied = tie_weights(model, [layer.name for layer in layers])
    assert profiling.count_parameters(model) == 3 * 72 and profiling.count_parameters(tied) == 72
    assert profiling.count_multiply_adds(tied) == profiling.count_multiply_adds(model) == 3 * 64


def test_rejects_unknown_lengths():
    model = model_of((None, 8), LAYERS.Dense(4))
    with pytest.raises(ValueError, match="unknown shapes"):
        profiling.count_multiply_adds(model)


def test_profile_of_a_file(tmp_path):
    model, x = model_of((8,), LAYERS.Dense(4)), np.random.default_rng(0).normal(size=(600, 8)).astype("float32")
    model.name = "student"
    labels = np.asarray(model(x)).argmax(-1)
    labels[:150] = (labels[:150] + 1) % 4
    for exported in export(model, tmp_path, x, ["keras", "litert_float32"]):
        result = profiling.profile(model, exported, x, labels)
        assert (result.model, result.format, result.threads) == ("student", exported.format, 1)
        assert result.bytes == exported.path.stat().st_size
        assert (result.parameters, result.multiply_adds) == (36, 32)
        assert result.scores == (0.75,)
        assert result.spread is None
    assert 0 < result.median <= result.p95 < 1000


def test_accuracy_is_none_without_labels(tmp_path):
    model, x = model_of((8,), LAYERS.Dense(4)), np.ones((4, 8), "float32")
    (exported,) = export(model, tmp_path, x, ["keras"])
    result = profiling.profile(model, exported, x)
    assert result.score is None and result.median is None and result.memory is None


def test_table_of_profiles():
    teacher = profiling.Profile("teacher", "saved_model", 2_000_000, 500_000, 7_000_000, (0.95,), 1.25, 2.5, 3 * 10**7)
    student = profiling.Profile("student", "litert_int8", 50_000, 40_000, 600_000, (0.93, 0.95), 0.1, 0.2, None, 2)
    keras_file = profiling.Profile("student", "keras", 200_000, 40_000, 600_000)
    headings, *lines = profiling.format_profiles([teacher, student, keras_file]).splitlines()
    assert headings.split() == " ".join(profiling.HEADINGS).split()
    first = "teacher saved_model 95.00 % 2 MB 1.0x 500,000 7 M 1.25 / 2.5 30 MB 1"
    second = "student litert_int8 94.00 ± 1.41 % 50 kB 40.0x 40,000 600 k 0.1 / 0.2 – 2"
    third = "student keras – 200 kB 10.0x 40,000 600 k – – –"
    assert [" ".join(line.split()) for line in lines] == [first, second, third]


def test_accuracy_of_a_single_unit_raises(tmp_path):
    model, x = model_of((8,), LAYERS.Dense(1)), np.ones((4, 8), "float32")
    (exported,) = export(model, tmp_path, x, ["keras"])
    with pytest.raises(ValueError, match="needs one output per class, but the model has a single output unit"):
        profiling.accuracy(exported, x, np.zeros(4, int))


def test_labels_of_shape_examples_by_1(tmp_path):
    model, x = model_of((8,), LAYERS.Dense(4)), np.random.default_rng(0).normal(size=(6, 8)).astype("float32")
    (exported,) = export(model, tmp_path, x, ["keras"])
    labels = model.predict(x, verbose=0).argmax(-1)
    labels[0] = (labels[0] + 1) % 4
    assert profiling.accuracy(exported, x, labels) == profiling.accuracy(exported, x, labels[:, None]) == 5 / 6
    # Six classes for six examples: comparing each row with each would pass unnoticed.
    with pytest.raises(ValueError, match=r"class indices of shape \(6,\), got \(6, 6\).*np.argmax"):
        profiling.accuracy(exported, x, np.eye(6))


def test_accuracy_of_positions(tmp_path):
    model, x = model_of((5, 8), LAYERS.Dense(4)), np.random.default_rng(0).normal(size=(6, 5, 8)).astype("float32")
    (exported,) = export(model, tmp_path, x, ["keras"])
    labels = model.predict(x, verbose=0).argmax(-1)
    labels[:, 0] = (labels[:, 0] + 1) % 4
    assert profiling.accuracy(exported, x, labels) == 24 / 30
