"""Students initialized from their teacher's weights."""

import keras
import numpy as np
import pytest

from keras_distill import mapping
from keras_distill.compression import copy_weights
from keras_distill.models.layers import walk_layers
from tests.support.helpers import data


def network(blocks, width, name, classes=3):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(width, name="embed")(inputs)
    for number in range(blocks):
        x = keras.layers.Dense(width, activation="tanh", name=f"block_{number}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{number}")(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x), name=name)
    random = np.random.default_rng(len(name))
    model.set_weights([random.uniform(0.1, 1, weight.shape) for weight in model.get_weights()])
    return model


def by_path(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def blocks(student, teacher):
    pairs = mapping.uniform(mapping.layers(student, "block_*"), mapping.layers(teacher, "block_*"))
    return pairs + mapping.uniform(mapping.layers(student, "norm_*"), mapping.layers(teacher, "norm_*"))


def test_every_second_layer():
    student, teacher = network(2, 6, "student"), network(4, 6, "teacher")
    rows = copy_weights(student, teacher, blocks(student, teacher))
    student_weights, teacher_weights = by_path(student), by_path(teacher)
    for student_layer, teacher_layer in (
        ("block_0", "block_1"),
        ("block_1", "block_3"),
        ("embed", "embed"),
        ("logits", "logits"),
    ):
        np.testing.assert_array_equal(
            student_weights[f"{student_layer}/kernel"], teacher_weights[f"{teacher_layer}/kernel"]
        )
        np.testing.assert_array_equal(
            student_weights[f"{student_layer}/bias"], teacher_weights[f"{teacher_layer}/bias"]
        )
    for part in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_array_equal(student_weights[f"norm_1/{part}"], teacher_weights[f"norm_3/{part}"])
    assert {row.status for row in rows} == {"copied"} and len(rows) == len(student.weights)
    assert "copied  block_0/kernel (6, 6) from block_1/kernel" in map(str, rows)


def test_copying_all_layers_gives_the_teacher():
    student, teacher = network(3, 6, "student"), network(3, 6, "teacher")
    copy_weights(student, teacher)
    x = data(5)[0]
    np.testing.assert_array_equal(student(x), teacher(x))


def test_a_narrower_student_uses_the_first_units():
    student, teacher = network(2, 4, "student"), network(2, 6, "teacher")
    rows = copy_weights(student, teacher)
    assert {row.status for row in rows} == {"sliced", "copied"}
    assert "sliced  block_0/kernel (4, 4) of (6, 6) from block_0/kernel" in map(str, rows)
    source = by_path(teacher)
    # The outputs equal those of a teacher whose other units are 0.
    reduced = network(2, 6, "silent")
    for weight in reduced.weights:
        value = source[weight.path].copy()
        if value.shape[-1] == 6 and "moving_variance" not in weight.path:
            value[..., 4:] = 0
        weight.assign(value)
    x = data(5)[0]
    np.testing.assert_allclose(student(x), reduced(x), rtol=1e-5, atol=1e-6)


def test_unpaired_layers_can_be_skipped():
    student, teacher = network(2, 6, "student"), network(4, 6, "teacher")
    before = by_path(student)
    rows = copy_weights(student, teacher, [("block_0", "block_3")], unpaired=False)
    after = by_path(student)
    changed = {path for path in after if not np.array_equal(before[path], after[path])}
    assert changed == {"block_0/kernel", "block_0/bias"}
    assert [row.student for row in rows if row.status != "skipped"] == ["block_0/kernel", "block_0/bias"]
    assert "skipped logits/bias (3,)" in map(str, rows)


def test_nested_layers():
    def attention(heads, name):
        inputs = keras.Input((5, 8))
        x = keras.layers.MultiHeadAttention(heads, 4, name=f"attention_{name}")(inputs, inputs)
        return keras.Model(inputs, x, name=name)

    student, teacher = attention(2, "student"), attention(4, "teacher")
    rows = copy_weights(student, teacher, [("attention_student", "attention_teacher")])
    student_layer, teacher_layer = student.get_layer("attention_student"), teacher.get_layer("attention_teacher")
    np.testing.assert_array_equal(student_layer.query_dense.kernel, teacher_layer.query_dense.kernel[:, :2])
    np.testing.assert_array_equal(student_layer.output_dense.kernel, teacher_layer.output_dense.kernel[:2])
    assert rows[0].teacher == "attention_teacher/query/kernel"


def test_rejects_layers_that_do_not_fit_and_copies_nothing():
    student, teacher = network(2, 8, "student"), network(2, 6, "teacher")
    before = student.get_weights()
    with pytest.raises(
        ValueError, match=r"'block_1' of the student cannot be initialized from 'block_0'.*\(8, 8\).*\(6, 6\)"
    ):
        copy_weights(student, teacher, [("block_1", "block_0")])
    with pytest.raises(ValueError, match="'block_1' of the student cannot be initialized from 'norm_0'"):
        copy_weights(student, teacher, [("block_1", "norm_0")])
    with pytest.raises(ValueError, match="No layer called 'block_7'"):
        copy_weights(student, teacher, [("block_7", "block_0")])
    for one, other in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Layers that do not fit are skipped without a pair.
    assert {row.student for row in copy_weights(student, network(2, 6, "teacher")) if row.status == "copied"} == {
        "logits/bias"
    }


def test_permuted_units_compute_the_same():
    student, teacher = network(2, 6, "student"), network(2, 6, "teacher")
    order = [3, 0, 5, 1, 2, 4]
    norm = dict.fromkeys((f"norm_0/{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")), (order,))
    units = {"block_0/kernel": (None, order), "block_0/bias": (order,), "block_1/kernel": (order, None), **norm}
    copy_weights(student, teacher, units=units)
    x = data(5)[0]
    np.testing.assert_allclose(student(x), teacher(x), rtol=1e-5)
    np.testing.assert_array_equal(student.get_layer("block_0").bias, teacher.get_layer("block_0").bias.numpy()[order])


def test_units_of_a_narrower_student():
    student, teacher = network(1, 4, "student"), network(1, 6, "teacher")
    copy_weights(student, teacher, units={"block_0/kernel": ([5, 1, 0, 2], None)})
    expected = teacher.get_layer("block_0").kernel.numpy()[[5, 1, 0, 2], :4]
    np.testing.assert_array_equal(student.get_layer("block_0").kernel, expected)


@pytest.mark.parametrize(
    "units",
    [{"block_0/kernel": ([0, 1, 2, 3],)}, {"block_0/bias": ([0, 1, 2],)}, {"block_0/bias": ([0, 1, 2, 6],)}],
)
def test_rejects_units_that_do_not_fit(units):
    student, teacher = network(1, 4, "student"), network(1, 6, "teacher")
    before = student.get_weights()
    with pytest.raises(ValueError, match=r"`units` must have, for each axis of 'block_0/.*the teacher's \(6"):
        copy_weights(student, teacher, units=units)
    np.testing.assert_array_equal(before[0], student.get_weights()[0])


def test_rejects_units_of_an_unknown_weight():
    student, teacher = network(1, 4, "student"), network(1, 6, "teacher")
    with pytest.raises(ValueError, match=r"names 'block_0/kernels', .* Closest: \['block_0/kernel'"):
        copy_weights(student, teacher, units={"block_0/kernels": (None, [0, 1, 2, 3])})


@pytest.mark.parametrize(
    "make",
    [
        lambda units: keras.layers.LSTM(units, name="rnn"),
        lambda units: keras.layers.GRU(units, name="rnn"),
        lambda units: keras.layers.GRU(units, reset_after=False, name="rnn"),
        lambda units: keras.layers.SimpleRNN(units, name="rnn"),
        lambda units: keras.layers.Bidirectional(keras.layers.LSTM(units, name="rnn"), merge_mode="sum", name="both"),
        lambda units: keras.layers.RNN([keras.layers.GRUCell(units), keras.layers.LSTMCell(units)], name="rnn"),
    ],
)
def test_the_first_units_of_each_gate_are_copied(make):
    def model(units):
        inputs = keras.Input((5, 3))
        return keras.Model(inputs, keras.layers.Dense(2, name="head")(make(units)(inputs)))

    student, teacher = model(4), model(6)
    # The last two units of the teacher stay zero, so that the first four do not depend on them.
    for _, layer in walk_layers(teacher):
        if getattr(layer, "recurrent_kernel", None) is not None:
            kernel = np.array(layer.recurrent_kernel)
            kernel[4:] = 0
            layer.recurrent_kernel.assign(kernel)
            if isinstance(layer, keras.layers.LSTMCell) and layer.kernel.shape[0] == 6:
                layer.kernel.assign(np.array(layer.kernel) * (np.arange(6) < 4)[:, None])
    teacher.get_layer("head").kernel.assign(np.array(teacher.get_layer("head").kernel) * (np.arange(6) < 4)[:, None])
    copy_weights(student, teacher)
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    np.testing.assert_allclose(student(x), teacher(x), rtol=1e-5, atol=1e-6)
