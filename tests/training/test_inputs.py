"""Inputs of student and teacher: views of a batch, shared preprocessing, functions of NumPy, missing activations."""

import warnings

import keras
import numpy as np
import pytest

from keras_distill import Distiller, MutualDistiller, Term, preflight
from keras_distill.cache import label, open_cache
from keras_distill.losses import Hint, KLDivergence
from keras_distill.teachers import CachedTeacher, EMATeacher, NumPyTeacher, with_activations
from tests.support.helpers import compiled, crossentropy, data, features, fitted, mlp, softmax, zero_rate_sgd


def depth_and_color(names, weights, name):
    """Return the weighted sum of the inputs, so that one knows which were read."""
    inputs = {key: keras.Input((1,), name=key) for key in names}
    scaled = [keras.layers.Rescaling(weight)(x) for weight, x in zip(weights, inputs.values(), strict=True)]
    total = scaled[0] if len(scaled) == 1 else keras.layers.Add()(scaled)
    dense = keras.layers.Dense(2, kernel_initializer="ones", name="dense")
    return keras.Model(inputs, dense(total), name=name)


@pytest.mark.case("B4")
@pytest.mark.parametrize("as_dict", [True, False])
def test_a_student_takes_its_own_inputs_of_a_batch(as_dict):
    teacher = depth_and_color(["rgb", "depth"], [1.0, 1.0], "teacher")
    student = depth_and_color(["rgb"], [1.0], "student")
    if not as_dict:
        inputs = keras.Input((1,), name="rgb")
        student = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(inputs), name="student")
    x = {"rgb": np.full((4, 1), 6.0, "float32"), "depth": np.full((4, 1), 600.0, "float32")}
    distiller = Distiller(student=student, teacher=teacher, terms=[Term("mse")], inputs=x)
    distiller.compile(zero_rate_sgd())
    np.testing.assert_allclose(distiller.predict(x, verbose=0), 6.0)
    np.testing.assert_allclose(fitted(distiller, x)["loss"][0], 600.0**2, rtol=1e-6)


@pytest.mark.case("B4")
def test_a_list_of_inputs_is_taken_in_the_models_order():
    first, second = keras.Input((1,), name="z"), keras.Input((1,), name="a")
    student = keras.Model([first, second], keras.layers.Subtract()([first, second]))
    x = {name: np.full((2, 1), value, "float32") for name, value in (("a", 1.0), ("m", 50.0), ("z", 10.0))}
    distiller = Distiller(student=student, teacher=None, inputs=x)
    np.testing.assert_allclose(distiller.predict(x, verbose=0), 9.0)


@pytest.mark.case("B4")
def test_an_input_that_the_batch_does_not_have_is_named():
    teacher = depth_and_color(["rgb", "depth"], [1.0, 1.0], "teacher")
    student = depth_and_color(["thermal"], [1.0], "student")
    x = {"rgb": np.ones((4, 1)), "depth": np.ones((4, 1))}
    with pytest.raises(ValueError, match=r"'student' takes the inputs \['thermal'\], but the batch has"):
        Distiller(student=student, teacher=teacher, terms=[Term("mse")], inputs=x)


@pytest.mark.case("B4")
def test_peers_take_their_own_inputs():
    peers = [depth_and_color([key], [1.0], key) for key in ("rgb", "depth")]
    x = {"rgb": np.full((4, 1), 6.0, "float32"), "depth": np.full((4, 1), 600.0, "float32")}
    outputs = MutualDistiller(peers, inputs=x).predict(x, verbose=0)
    np.testing.assert_allclose([outputs["peer_0"][0, 0], outputs["peer_1"][0, 0]], [6.0, 600.0])


def normalization():
    layer = keras.layers.Normalization()
    layer.adapt(features(64, 8))
    return layer


def frozen():
    layer = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.BatchNormalization()], name="body")
    layer.trainable = False
    return layer


def with_shared(layer, name):
    return keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(3)], name=name)


@pytest.mark.case("B8")
@pytest.mark.parametrize("make", [normalization, frozen])
def test_layers_that_training_does_not_change_are_shared(make):
    layer, (x, y) = make(), data()
    student, teacher = with_shared(layer, "student"), with_shared(layer, "teacher")
    before = [np.array(weight) for weight in teacher.weights]
    distiller = compiled(Distiller(student=student, teacher=teacher), keras.optimizers.Adam(0.1))
    fitted(distiller, x, y)
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    MutualDistiller([student, teacher])


@pytest.mark.case("B8")
def test_layers_that_training_changes_are_not_shared():
    for layer in (keras.layers.Dense(8), keras.layers.BatchNormalization()):
        layer.build((None, 8))
        with pytest.raises(ValueError, match="'student' shares the weights"):
            Distiller(student=with_shared(layer, "student"), teacher=with_shared(layer, "teacher"))
    layer = frozen()
    distiller = Distiller(student=with_shared(layer, "student"), teacher=with_shared(layer, "teacher"))
    layer.trainable = True
    with pytest.raises(ValueError, match="shares the weights.*or freeze the shared layers"):
        compiled(distiller)


class Forest:
    """Stands for a classifier of scikit-learn: takes NumPy arrays only, returns probabilities in float64."""

    def __init__(self):
        self.matrix = features(8, 3, seed=7)

    def predict_proba(self, x):
        assert isinstance(x, np.ndarray)
        return softmax(x @ self.matrix)


@pytest.mark.case("B9")
def test_a_classifier_of_numpy_teaches_online():
    forest, student, (x, y) = Forest(), mlp(), data()
    distiller = Distiller(student=student, teacher=forest.predict_proba, terms=[Term(KLDivergence(1.0))])
    distiller.compile(zero_rate_sgd())
    found = fitted(distiller, x, y, batch_size=24)["kl_divergence_loss"][0]
    p, q = forest.predict_proba(x), softmax(student.predict(x, verbose=0))
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum(-1).mean(), rtol=1e-4)


@pytest.mark.case("B9")
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_classifier_of_numpy_is_labeled(tmp_path, wrapped):
    forest, (x, y) = Forest(), data()
    teacher = NumPyTeacher(forest.predict_proba, from_probabilities=True) if wrapped else forest.predict_proba
    label(teacher, (x, y), tmp_path / "cache")
    stored = open_cache(tmp_path / "cache")
    (values,) = [batch[0]["keras_distill/cached"]["output"] for batch in stored.join((x, y)).batch(24)]
    np.testing.assert_allclose(softmax(values), forest.predict_proba(x), rtol=1e-5)


@pytest.mark.case("B9")
def test_several_outputs_and_structures_of_numpy():
    def function(inputs):
        return {"a": inputs["x"] * 2.0, "b": inputs["x"] + 100.0}

    inputs = keras.Input((3,), name="x")
    student = keras.Model({"x": inputs}, keras.layers.Dense(3, kernel_initializer="zeros")(inputs))
    distiller = Distiller(student=student, teacher=NumPyTeacher(function), terms=[Term("mse", teacher="output[a]")])
    distiller.compile(zero_rate_sgd())
    x = {"x": features(4, 3)}
    np.testing.assert_allclose(fitted(distiller, x)["loss"][0], np.mean((2 * x["x"]) ** 2), rtol=1e-5)


@pytest.mark.case("B9")
def test_errors_of_numpy_teachers_name_them_and_the_remedy():
    forest = Forest()

    def my_function(x):
        return forest.predict_proba(np.asarray(x))

    with pytest.raises(ValueError, match=r"The teacher 'my_function' failed.*pass keras_distill.teachers.NumPyTeacher"):
        Distiller(student=mlp(), teacher=my_function)
    with pytest.raises(ValueError, match="'my_function' returns class probabilities.*from_probabilities=True"):
        Distiller(student=mlp(), teacher=NumPyTeacher(my_function))

    def broken(x):
        raise RuntimeError("no session")

    with pytest.raises(ValueError, match="'broken' failed for a batch of two examples.*RuntimeError: no session"):
        Distiller(student=mlp(), teacher=NumPyTeacher(broken))


@pytest.mark.case("B11")
def test_random_layers_in_the_student_are_found():
    def model(name, *layers):
        body = [keras.layers.Flatten(), keras.layers.Dropout(0.1), keras.layers.Dense(3)]
        return keras.Sequential([keras.Input((4, 4, 3)), *layers, *body], name=name)

    x, y = features(64, 4, 4, 3), np.arange(64) % 3

    def titles(student, teacher):
        distiller = compiled(Distiller(student=student, teacher=teacher), keras.optimizers.SGD(0.01))
        return [finding.name for finding in preflight.check(distiller, x, y)]

    flip = keras.layers.RandomFlip
    assert "random layers" in titles(model("student", flip()), model("teacher"))
    # In inference mode, the teacher does not flip its inputs either.
    assert "random layers" in titles(model("student", flip()), model("teacher", flip()))
    assert "random layers" not in titles(model("student"), model("teacher", flip()))
    student = model("student", flip())
    assert "random layers" not in titles(student, EMATeacher(student))


@pytest.mark.case("B12")
def test_a_preprocessor_is_warned_of():
    student = mlp()
    student.preprocessor = keras.layers.Rescaling(1 / 255)
    with pytest.warns(UserWarning, match="does not apply the preprocessor of 'student'.*dataset.map"):
        Distiller(student=student, teacher=mlp(name="teacher"))


def cached_distiller(x, **options):
    teacher = mlp(name="teacher")
    activations = {"output": teacher.predict(x, verbose=0)}
    distiller = Distiller(student=mlp(), teacher=CachedTeacher(activations), terms=[Term(KLDivergence(), name="kd")])
    distiller.compile("sgd", crossentropy(), metrics=["accuracy"], **options)
    return distiller, with_activations(x, activations)


@pytest.mark.case("F1")
def test_validation_without_activations_leaves_out_the_terms():
    x, y = data()
    distiller, joined = cached_distiller(x)
    with pytest.warns(UserWarning, match="Validation leaves out the terms") as record:
        logs = fitted(distiller, joined, y, epochs=2, validation_data=(x, y))
    assert len([each for each in record if "leaves out" in str(each.message)]) == 1
    assert set(logs) == {
        *("loss", "supervised_loss", "kd_loss", "accuracy"),
        *("val_loss", "val_supervised_loss", "val_accuracy"),
    }
    expected = distiller.student
    expected.compile("sgd", crossentropy(), metrics=["accuracy"])
    loss, accuracy = expected.evaluate(x, y, batch_size=8, verbose=0)
    np.testing.assert_allclose(logs["val_loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(logs["val_supervised_loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(logs["val_accuracy"][-1], accuracy)


@pytest.mark.case("F1")
def test_validation_without_terms_by_choice():
    x, y = data()
    distiller = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(Hint(), "features", "features")])
    distiller.compile("sgd", crossentropy(), evaluate_terms=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        logs = fitted(distiller, x, y, validation_data=(x, y))
    assert "hint_loss" in logs and "val_hint_loss" not in logs
    assert logs["val_loss"] == logs["val_supervised_loss"]
    peers = MutualDistiller([mlp(), mlp(name="other")])
    peers.compile("sgd", crossentropy(), evaluate_terms=False)
    logs = fitted(peers, x, y, validation_data=(x, y))
    assert "peer_0_mutual_loss" in logs and "val_peer_0_mutual_loss" not in logs


@pytest.mark.case("F1")
@pytest.mark.filterwarnings("ignore:Validation leaves out")
@pytest.mark.parametrize("callback", [keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau])
def test_a_callback_that_monitors_what_is_left_out_raises(callback):
    x, y = data()
    distiller, joined = cached_distiller(x)
    with pytest.raises(ValueError, match=f"{callback.__name__} monitors 'val_kd_loss', which validation leaves out"):
        fitted(distiller, joined, y, validation_data=(x, y), callbacks=[callback(monitor="val_kd_loss", mode="min")])
    fitted(distiller, joined, y, validation_data=(x, y), callbacks=[callback(monitor="val_loss")])


@pytest.mark.case("F1")
def test_the_choice_is_saved(tmp_path):
    x, y = data()
    peers = MutualDistiller([mlp(), mlp(name="other")])
    peers.compile("sgd", crossentropy(), evaluate_terms=False)
    fitted(peers, x, y)
    peers.save(tmp_path / "peers.keras")
    assert keras.saving.load_model(tmp_path / "peers.keras").evaluate_terms is False
