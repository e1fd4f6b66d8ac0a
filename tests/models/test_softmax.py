"""Logits of models that end in a softmax or a sigmoid."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, without_softmax
from keras_distill.losses import BinaryKD, KLDivergence
from keras_distill.models.softmax import as_logits
from keras_distill.teachers import CachedTeacher, with_activations
from tests.support.helpers import compiled, data, features, fitted, mlp, softened_kl, softmax

pytestmark = pytest.mark.everyday


def classifier(ending, name="classifier", activation="softmax"):
    """A network whose last tensor holds probabilities, made in different ways."""
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(6, activation="relu", name="features")(inputs)
    logits = keras.layers.Dense(3, name="logits")
    outputs = {
        "dense": lambda: keras.layers.Dense(3, activation=activation, name="logits")(hidden),
        "activation": lambda: keras.layers.Activation(activation)(logits(hidden)),
        "operation": lambda: getattr(keras.ops, activation)(logits(hidden)),
        "reshape": lambda: keras.layers.Reshape((3, 1))(keras.layers.Activation(activation)(logits(hidden))),
        "float32": lambda: keras.layers.Activation(activation, dtype="float32")(logits(hidden)),
    }[ending]()
    return keras.Model(inputs, outputs, name=name)


def reference_logits(model, x):
    """The last layer's product in NumPy."""
    hidden = np.maximum(x @ model.get_layer("features").kernel.numpy() + model.get_layer("features").bias.numpy(), 0)
    return hidden @ model.get_layer("logits").kernel.numpy() + model.get_layer("logits").bias.numpy()


ENDINGS = ["dense", "activation", "operation", "reshape", "float32"]


@pytest.mark.case("C2")
@pytest.mark.parametrize("ending", ENDINGS)
def test_without_softmax_returns_the_logits_and_shares_the_weights(ending):
    model, x = classifier(ending), features(5, 8)
    logits = without_softmax(model)
    expected = reference_logits(model, x)
    np.testing.assert_allclose(logits.predict(x, verbose=0).reshape(5, 3), expected, rtol=1e-5, atol=1e-6)
    assert [id(weight) for weight in logits.weights] == [id(weight) for weight in model.weights]
    np.testing.assert_allclose(model.predict(x, verbose=0).reshape(5, 3), softmax(expected), rtol=1e-5)


def test_a_model_without_softmax_is_saved_and_loaded(tmp_path):
    logits, x = without_softmax(classifier("dense")), features(5, 8)
    logits.save(tmp_path / "logits.keras")
    loaded = keras.saving.load_model(tmp_path / "logits.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), logits.predict(x, verbose=0))


def test_without_softmax_converts_each_output():
    inputs = keras.Input((8,))
    outputs = {"kind": keras.layers.Dense(3, activation="softmax")(inputs), "size": keras.layers.Dense(1)(inputs)}
    model, x = keras.Model(inputs, outputs), features(4, 8)
    found, original = without_softmax(model).predict(x, verbose=0), model.predict(x, verbose=0)
    np.testing.assert_allclose(softmax(found["kind"]), original["kind"], rtol=1e-5)
    np.testing.assert_array_equal(found["size"], original["size"])


def test_a_sequential_model_without_its_softmax_is_a_student():
    (x, y), model = data(), keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
    student = without_softmax(model)
    fitted(compiled(Distiller(student=student, teacher=mlp(name="teacher"))), x, y)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(student.predict(x, verbose=0), x @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_a_model_of_logits_raises():
    with pytest.raises(ValueError, match="'student' does not end in a softmax or a sigmoid. Use it as it is"):
        without_softmax(mlp())


@pytest.mark.parametrize("source", ["Softmax", "Sigmoid"])
def test_probabilities_without_their_input_become_logarithms(source):
    logits = features(6, 4)
    p = softmax(logits) if source == "Softmax" else 1 / (1 + np.exp(-logits))
    found = as_logits(tf.constant(p, "float32"), source)
    again = softmax(found) if source == "Softmax" else 1 / (1 + np.exp(-found))
    np.testing.assert_allclose(again, p, rtol=1e-5)
    for dtype in ("float32", "float16"):
        certain = as_logits(tf.constant([[1.0, 0.0]], dtype), source)
        assert np.isfinite(certain).all()


@pytest.mark.case("C2")
@pytest.mark.parametrize("ending", ["dense", "activation", "operation", "float32"])
@pytest.mark.parametrize("sides", ["student", "teacher", "both"])
def test_terms_compare_the_input_of_the_softmax(ending, sides):
    x, y = data()
    student = classifier(ending, "student") if sides != "teacher" else mlp()
    teacher = classifier(ending, "teacher") if sides != "student" else mlp(name="teacher")
    reference = [
        reference_logits(model, x) if model.name == side and sides in (side, "both") else model.predict(x, verbose=0)
        for side, model in (("student", student), ("teacher", teacher))
    ]
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(3.0))])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=sides == "teacher")
    distiller.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
    logged = fitted(distiller, x, y)
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], softened_kl(*reference, 3.0).mean(), rtol=1e-4)
    # The supervised loss sees the unchanged output.
    student.compile(loss=loss, metrics=["accuracy"])
    np.testing.assert_allclose(
        [logged["supervised_loss"][0], logged["accuracy"][0]], student.evaluate(x, y, verbose=0), rtol=1e-5
    )


def test_sigmoid_outputs_are_compared_by_their_logits():
    x = features(24, 8)
    student, teacher = classifier("dense", "student", "sigmoid"), classifier("dense", "teacher", "sigmoid")
    logged = fitted(
        compiled(Distiller(student=student, teacher=teacher, terms=BinaryKD()), keras.optimizers.SGD(0.0), None), x
    )
    p, q = (1 / (1 + np.exp(-reference_logits(model, x).astype("float64"))) for model in (teacher, student))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    np.testing.assert_allclose(logged["binary_kd_loss"][0], expected, rtol=1e-4)


@pytest.mark.parametrize("ending", ["dense", "activation", "operation", "float32"])
def test_a_saturated_softmax_still_has_a_gradient(ending):
    student, teacher = classifier(ending, "student"), classifier(ending, "teacher")
    student.get_layer("logits").bias.assign([200.0, 0.0, 0.0])
    teacher.get_layer("logits").bias.assign([0.0, 200.0, 0.0])
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(1.0))])
    distiller.compile(keras.optimizers.SGD(1.0))
    before = student.get_layer("logits").bias.numpy()
    logged = fitted(distiller, features(8, 8))
    np.testing.assert_allclose(logged["loss"][0], 200.0, rtol=0.1)
    moved = student.get_layer("logits").bias.numpy() - before
    np.testing.assert_allclose(moved, [-1.0, 1.0, 0.0], atol=1e-3)


def test_neither_model_is_changed():
    student, teacher = classifier("dense", "student"), classifier("activation", "teacher")
    x = features(8, 8)
    before = teacher.predict(x, verbose=0)
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile("sgd")
    fitted(distiller, x)
    np.testing.assert_array_equal(teacher.predict(x, verbose=0), before)
    assert student.get_layer("logits").activation is keras.activations.softmax
    np.testing.assert_allclose(student.predict(x, verbose=0).sum(axis=1), 1, rtol=1e-5)


def test_cached_logits_are_taken_as_they_are():
    x, student = features(8, 8), classifier("dense", "student")
    logits = features(8, 3, seed=3)
    distiller = Distiller(student=student, teacher=CachedTeacher({"output": logits}), terms=[Term(KLDivergence(1.0))])
    expected = softened_kl(reference_logits(student, x), logits, 1.0).mean()
    distiller.compile(keras.optimizers.SGD(0.0))
    logged = fitted(distiller, with_activations(x, {"output": logits}))
    np.testing.assert_allclose(logged["loss"][0], expected, rtol=1e-4)
