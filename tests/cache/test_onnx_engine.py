"""Labeling by ONNX Runtime."""

import json
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT
from keras_distill.cache import Views, label, onnx_engine, open_cache, shards
from keras_distill.compression import runtimes
from keras_distill.teachers import Ensemble, ModelTeacher, NumPyTeacher
from tests.support.helpers import data, features, mlp
from tests.support.language_models import WORDS, language_model

ONNX = {"engine": "onnx", "verbose": 0}


@pytest.fixture
def teacher():
    return mlp(16, name="teacher")


def stored(directory, shard=0):
    """Return the arrays of a shard, `{name: array}`, without the fingerprints."""
    files = {path.name.split(".", 1)[1][:-4]: path for path in directory.glob(f"{shard:05d}.*.npy")}
    return {name: np.load(path) for name, path in files.items() if name != "examples"}


def saved_bytes(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".npy", ".json")}


def test_the_activations_are_those_of_predict_and_numpy(teacher, tmp_path):
    x = data()[0]
    # The last batch has 4 examples.
    label(teacher, (x,), tmp_path, ["logits", "features", OUTPUT], batch_size=5, **ONNX)
    found = stored(tmp_path)
    kernels = [weight.astype("float64") for weight in teacher.get_weights()]
    hidden = np.maximum(x @ kernels[0] + kernels[1], 0)
    np.testing.assert_allclose(found["features"], hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[OUTPUT], hidden @ kernels[2] + kernels[3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[OUTPUT], teacher.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["logits"], found[OUTPUT])


def test_the_manifest_lists_the_engine_and_the_files_are_the_same(teacher, tmp_path):
    folders = [tmp_path / engine for engine in ("keras", "onnx")]
    for folder in folders:
        label(teacher, data(), folder, dtype="float16", top_k=2, engine=folder.name, verbose=0)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert manifests[1].pop("engine") == "onnx" and list(manifests[0]) == list(manifests[1])
    for key in ("format", "teacher", "inputs", "views", "taps", "shard_examples", "complete"):
        assert manifests[0][key] == manifests[1][key]
    sizes = [{path.name: path.stat().st_size for path in folder.glob("*.npy")} for folder in folders]
    assert sizes[0] == sizes[1]
    np.testing.assert_array_equal(*(stored(folder)["output.classes"] for folder in folders))
    assert [open_cache(folder, teacher).engine for folder in folders] == ["keras", "onnx"]


def test_resuming_writes_the_same_bytes_and_another_engine_raises(teacher, tmp_path, monkeypatch):
    options = {"taps": ["features"], "batch_size": 5, "shard_bytes": 1}
    label(teacher, data(), tmp_path / "whole", **options, **ONNX)
    write, folder = shards.write_shard, tmp_path / "resumed"

    def interrupted(directory, number, arrays):
        if number == 2:
            raise KeyboardInterrupt
        return write(directory, number, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label(teacher, data(), folder, **options, **ONNX)
    message = "cache with other settings: engine 'onnx' instead of 'keras'. Choose another directory.$"
    with pytest.raises(ValueError, match=message):
        label(teacher, data(), folder, **options, verbose=0)
    label(teacher, data(), folder, **options, **ONNX)
    assert saved_bytes(folder) == saved_bytes(tmp_path / "whole")
    # Also where the cache of the other engine is complete.
    label(teacher, data(), tmp_path / "keras", verbose=0)
    with pytest.raises(ValueError, match="engine 'keras' instead of 'onnx'"):
        label(teacher, data(), tmp_path / "keras", **ONNX)


def test_dictionaries_several_outputs_and_a_softmax(tmp_path):
    """The teacher does not use all inputs, and its inputs are not in alphabetical order."""
    first, second = keras.Input((4,), name="second"), keras.Input((3, 2), dtype="uint8", name="first")
    both = keras.layers.Concatenate()([first, keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(second))])
    probabilities = keras.layers.Dense(3, activation="softmax", name="classes")(both)
    teacher = keras.Model([first, second], {"classes": probabilities, "sum": keras.layers.Dense(2, name="sum")(both)})
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 2)).astype("uint8")
    inputs = {"first": pixels, "other": features(10, 5), "second": features(10, 4, seed=1)}
    label(teacher, (inputs,), tmp_path, ["output[classes]", "output[sum]"], batch_size=4, **ONNX)
    joined = np.concatenate([inputs["second"], pixels.reshape(10, 6) / 255], axis=1)
    for name in ("classes", "sum"):
        kernel, bias = teacher.get_layer(name).get_weights()
        # "classes" are stored as logits.
        found = stored(tmp_path)[f"output%5B{name}%5D"]
        np.testing.assert_allclose(found, joined @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_examples_of_different_lengths(tmp_path):
    lines = [np.arange(1, length, dtype="int32") % WORDS for length in (5, 9, 3, 7, 2)]
    texts = tf.data.Dataset.from_generator(lambda: iter(lines), output_signature=tf.TensorSpec((None,), tf.int32))
    teacher = language_model(6, "teacher", kernel_initializer="random_normal")
    label(teacher, texts, tmp_path, [OUTPUT, "block"], batch_size=2, **ONNX)
    found = stored(tmp_path)
    assert found["lengths"].tolist() == [4, 8, 2, 6, 1]
    expected = np.concatenate([teacher.predict(line[None], verbose=0)[0] for line in lines])
    np.testing.assert_allclose(found[OUTPUT], expected, rtol=1e-5, atol=1e-5)
    assert found["block"].shape == (21, 6)


def test_views_and_ensembles(teacher, tmp_path):
    options = {"views": Views(2, lambda x, seed: x + tf.random.stateless_uniform((8,), seed)), "verbose": 0}
    ensemble = Ensemble([teacher, mlp(4, name="other")])
    for engine in ("keras", "onnx"):
        label(ensemble, data(), tmp_path / engine, engine=engine, **options)
    found = [stored(tmp_path / engine)[OUTPUT] for engine in ("keras", "onnx")]
    assert found[1].shape == (48, 3)
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


def test_classes_and_inputs_of_a_teacher_in_half_precision(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = mlp(16, name="teacher")
    teacher = ModelTeacher(model, inputs=lambda x: 2.0 * x, classes=[2, [0, 1]])
    x = data()[0]
    label(teacher, (x,), tmp_path, **ONNX)
    logits = model.predict(2 * x, verbose=0).astype("float64")
    expected = np.stack([logits[:, 2], np.logaddexp(logits[:, 0], logits[:, 1])], axis=1)
    np.testing.assert_allclose(stored(tmp_path)[OUTPUT], expected, atol=5e-3)


def constant_teacher():
    """Return a model that holds an eager tensor, which becomes an input of the ONNX file."""
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.ops.matmul(inputs, keras.ops.ones((8, 3))))


class Special(keras.layers.Layer):
    """Layer with an operation that ONNX does not have."""

    def call(self, inputs):
        return tf.math.lgamma(tf.math.igamma(tf.abs(inputs) + 1.0, 2.0))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda x: x, '`engine="onnx"` exports a keras.Model. Received: teacher <lambda>. `engine="keras"` labels'),
        (NumPyTeacher(lambda x: x), "Received: teacher NumPyTeacher"),
        (Ensemble([lambda x: x, mlp(8, 8)]), "Received: teacher <lambda>"),
        (
            keras.Sequential([keras.Input((8,)), Special(name="special")], name="tests"),
            "'tests' cannot be exported to ONNX, which has no operation Igamma. It computes '.*special.*Igamma'",
        ),
        (
            constant_teacher(),
            "cannot be exported to ONNX, since it holds a tensor as a constant, '",
        ),
    ],
    ids=["function", "NumPy", "ensemble", "operation", "constant"],
)
def test_teachers_that_cannot_be_exported_leave_the_directory_empty(teacher, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        label(teacher, data(), tmp_path, **ONNX)
    assert not list(tmp_path.glob("*.json"))
    if not isinstance(teacher, NumPyTeacher):
        # The advice.
        label(teacher, data(), tmp_path, verbose=0)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "outputs NaN or infinity"), (1e5, "exceeds the largest float16")]
)
def test_activations_that_cannot_be_stored_name_the_example(value, message, tmp_path):
    teacher = keras.Sequential([keras.Input((8,)), keras.layers.Rescaling(1.0)])
    x = data()[0]
    x[13, 2] = value
    with pytest.raises(ValueError, match=f"{message}.*|example 13.*{message}") as error:
        label(teacher, (x,), tmp_path, dtype="float16", **ONNX)
    assert "example 13" in str(error.value)


def test_another_engine_is_unknown(teacher, tmp_path):
    with pytest.raises(ValueError, match="`engine` must be one of \\('keras', 'onnx'\\). Received: 'tensorrt'"):
        label(teacher, data(), tmp_path, engine="tensorrt")


@pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
def test_the_error_names_a_missing_package(package, teacher, tmp_path, monkeypatch):
    def without(*arguments, **options):
        raise ImportError("No module named 'tf2onnx'")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    # Keras imports tf2onnx once per process.
    monkeypatch.setattr(keras.Model, "export", without if package == "tf2onnx" else keras.Model.export)
    with pytest.raises(ValueError, match=rf"requires {package}. Run: pip install 'keras-distill\[export\]'"):
        label(teacher, data(), tmp_path, **ONNX)


def test_the_first_batch_is_compared_with_keras(teacher, tmp_path, monkeypatch):
    class Other:
        """Runtime with another result."""

        def __init__(self, session):
            self.session = session
            self.get_inputs = session.get_inputs

        def run(self, names, arrays):
            (result,) = self.session.run(names, arrays)
            return [result + np.float32(0.01) * (np.arange(len(result)) == 3)[:, None]]

    monkeypatch.setattr(runtimes, "onnx_session", lambda *arguments, f=runtimes.onnx_session: Other(f(*arguments)))
    with pytest.raises(ValueError, match="at 'output' differ from those of Keras by up to 0.01 in the first batch"):
        label(teacher, data(), tmp_path, **ONNX)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("actual", [[[1.0, -np.inf], [2.0, 3.0]], [[1.0, -np.inf], [2.0, 3.0008]]])
def test_activations_that_are_the_same(actual):
    """The standard deviation of 1, 2 and 3 is 0.8165."""
    onnx_engine.compare("tap", np.array(actual), np.array([[1.0, -np.inf], [2.0, 3.0]]))


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        ([[1.0, -1e30], [2.0, 3.0]], "infinity or NaN at different places of 'tap'"),
        ([[1.0, -np.inf], [2.0, np.nan]], "'tap' differ from those of Keras by up to nan"),
        ([[1.0, -np.inf], [2.0, 3.001]], "'tap' differ from those of Keras by up to 0.001 "),
        ([[1.0, -np.inf]], r"returns shape \(1, 2\) at 'tap', but Keras \(2, 2\)"),
    ],
)
def test_activations_that_differ(actual, message):
    with pytest.raises(ValueError, match=message):
        onnx_engine.compare("tap", np.array(actual), np.array([[1.0, -np.inf], [2.0, 3.0]]))


def test_a_constant_activation_is_compared_by_its_size():
    onnx_engine.compare("tap", np.full((4, 2), 5.000001), np.full((4, 2), 5.0))
    onnx_engine.compare("tap", np.zeros((4, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="up to 0.0001"):
        onnx_engine.compare("tap", np.full((4, 2), 5.0001), np.full((4, 2), 5.0))


def test_the_threads_are_those_of_tensorflow(monkeypatch):
    threading = tf.config.threading
    monkeypatch.setattr(threading, "get_intra_op_parallelism_threads", lambda: 3)
    assert onnx_engine.num_threads() == 3
    monkeypatch.setattr(threading, "get_intra_op_parallelism_threads", lambda: 0)
    assert onnx_engine.num_threads() == len(os.sched_getaffinity(0))
