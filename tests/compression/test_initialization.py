"""Students that start from their teacher's weights."""

import keras
import numpy as np
import pytest

from keras_distill import mapping
from keras_distill.compression import copy_weights
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
    copied, source = by_path(student), by_path(teacher)
    for ours, theirs in (("block_0", "block_1"), ("block_1", "block_3"), ("embed", "embed"), ("logits", "logits")):
        np.testing.assert_array_equal(copied[f"{ours}/kernel"], source[f"{theirs}/kernel"])
        np.testing.assert_array_equal(copied[f"{ours}/bias"], source[f"{theirs}/bias"])
    for part in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_array_equal(copied[f"norm_1/{part}"], source[f"norm_3/{part}"])
    assert {row.how for row in rows} == {"copied"} and len(rows) == len(student.weights)
    assert "copied  block_0/kernel (6, 6) from block_1/kernel" in map(str, rows)


def test_all_layers_make_the_teacher():
    student, teacher = network(3, 6, "student"), network(3, 6, "teacher")
    copy_weights(student, teacher)
    x = data(5)[0]
    np.testing.assert_array_equal(student(x), teacher(x))


def test_a_narrower_student_computes_with_the_first_units():
    student, teacher = network(2, 4, "student"), network(2, 6, "teacher")
    rows = copy_weights(student, teacher)
    assert {row.how for row in rows} == {"sliced", "copied"}
    assert "sliced  block_0/kernel (4, 4) of (6, 6) from block_0/kernel" in map(str, rows)
    source = by_path(teacher)
    # The same as of a teacher whose other units are silent.
    silent = network(2, 6, "silent")
    for weight in silent.weights:
        value = source[weight.path].copy()
        if value.shape[-1] == 6 and "moving_variance" not in weight.path:
            value[..., 4:] = 0
        weight.assign(value)
    x = data(5)[0]
    np.testing.assert_allclose(student(x), silent(x), rtol=1e-5, atol=1e-6)


def test_others_may_be_left_alone():
    student, teacher = network(2, 6, "student"), network(4, 6, "teacher")
    before = by_path(student)
    rows = copy_weights(student, teacher, [("block_0", "block_3")], others=False)
    after = by_path(student)
    changed = {path for path in after if not np.array_equal(before[path], after[path])}
    assert changed == {"block_0/kernel", "block_0/bias"}
    assert [row.student for row in rows if row.how != "left"] == ["block_0/kernel", "block_0/bias"]
    assert "left    logits/bias (3,)" in map(str, rows)


def test_layers_with_layers_inside():
    def attention(heads, name):
        inputs = keras.Input((5, 8))
        x = keras.layers.MultiHeadAttention(heads, 4, name=f"attention_{name}")(inputs, inputs)
        return keras.Model(inputs, x, name=name)

    student, teacher = attention(2, "student"), attention(4, "teacher")
    rows = copy_weights(student, teacher, [("attention_student", "attention_teacher")])
    ours, theirs = student.get_layer("attention_student"), teacher.get_layer("attention_teacher")
    np.testing.assert_array_equal(ours.query_dense.kernel, theirs.query_dense.kernel[:, :2])
    np.testing.assert_array_equal(ours.output_dense.kernel, theirs.output_dense.kernel[:2])
    assert rows[0].teacher == "attention_teacher/query/kernel"


def test_what_does_not_fit_is_refused_and_nothing_copied():
    student, teacher = network(2, 8, "student"), network(2, 6, "teacher")
    before = student.get_weights()
    with pytest.raises(ValueError, match=r"'block_1' of the student cannot start from 'block_0'.*\(8, 8\).*\(6, 6\)"):
        copy_weights(student, teacher, [("block_1", "block_0")])
    with pytest.raises(ValueError, match="'block_1' of the student cannot start from 'norm_0'"):
        copy_weights(student, teacher, [("block_1", "norm_0")])
    with pytest.raises(ValueError, match="No layer called 'block_7'"):
        copy_weights(student, teacher, [("block_7", "block_0")])
    for one, other in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Without a pair, what does not fit is left.
    assert {row.student for row in copy_weights(student, network(2, 6, "teacher")) if row.how == "copied"} == {
        "logits/bias"
    }
