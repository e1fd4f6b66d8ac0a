"""Files of students, run by their own runtimes."""

import keras
import numpy as np
import pytest
from tensorflow.lite.python.schema_py_generated import TensorType
from tensorflow.lite.tools import flatbuffer_utils

from keras_distill.compression import BitWidths, export, quantize_aware, tie_weights
from keras_distill.compression.exporting import FORMATS
from keras_distill.compression.runtimes import runtime

LITERT = [name for name in FORMATS if name.startswith("litert")]


def network():
    layers = keras.layers
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x), name="student")
    random = np.random.default_rng(3)
    model.set_weights([w + np.abs(random.normal(scale=0.1, size=w.shape)) for w in model.get_weights()])
    return model


def pictures(count=64):
    return np.random.default_rng(0).uniform(size=(count, 8, 8, 2)).astype("float32")


@pytest.mark.parametrize("format", FORMATS)
def test_every_file_says_what_the_model_says(format, tmp_path):
    model, x = network(), pictures()
    (exported,) = export(model, tmp_path, x, [format])
    said, outputs = np.array(model(x)), runtime(exported.path, format)(x)
    assert outputs.shape == said.shape
    np.testing.assert_allclose(exported.difference, np.abs(outputs - said).mean() / said.std(), rtol=1e-5)
    assert exported.difference <= FORMATS[format]
    assert exported.agreement == np.mean(outputs.argmax(-1) == said.argmax(-1))
    assert exported.bytes == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("format", FORMATS)
def test_inputs_of_any_structure_find_their_places(format, tmp_path):
    # Alike in shape, so that nothing but their order tells them apart; named not in the order of the alphabet.
    inputs = {"tokens": keras.Input((4,), name="tokens"), "mask": keras.Input((4,), name="mask")}
    merged = keras.layers.Concatenate()([inputs["tokens"], keras.layers.ReLU()(inputs["mask"])])
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(merged), name="two")
    random = np.random.default_rng(0)
    x = {"tokens": random.normal(size=(64, 4)).astype("float32"), "mask": random.normal(size=(64, 4)).astype("float32")}
    (exported,) = export(model, tmp_path, x, [format])
    assert exported.difference <= min(FORMATS[format], 0.1)


def test_what_a_quantised_model_rounds_to_is_in_every_file(tmp_path):
    x = pictures(256)
    copy = quantize_aware(network(), x, BitWidths(4, 8))
    for each in export(copy, tmp_path, x, ["keras", "saved_model", "onnx"]):
        assert each.difference < (0.05 if each.format == "onnx" else 1e-4)


def test_smaller_numbers_make_smaller_files(tmp_path):
    # Large enough that weights outweigh what else is in a file.
    inputs = keras.Input((64,))
    x = keras.layers.Dense(256, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(64)(x), name="wide")
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    sizes = {each.format: each.bytes for each in export(model, tmp_path, x, LITERT)}
    assert sizes["litert_float16"] < 0.6 * sizes["litert_float32"]
    assert sizes["litert_int8"] < 0.35 * sizes["litert_float32"]
    assert sizes["litert_dynamic"] < 0.35 * sizes["litert_float32"]


def test_a_quantised_model_computes_in_its_file_as_it_does_in_keras(tmp_path):
    x = pictures(256)
    copy = quantize_aware(network(), x, BitWidths(8, 8))
    said = np.array(copy(x))
    (exported,) = export(copy, tmp_path, x, ["litert_int8"])
    outputs = runtime(exported.path, "litert_int8")(x)
    # Within two steps of the output, which has 255 from its least to its greatest.
    assert np.abs(outputs - said).max() <= 2.5 * (said.max() - min(said.min(), 0)) / 255 + 0.02 * said.std()


def test_a_quantised_model_of_sums_has_no_floats_in_its_file(tmp_path):
    inputs = x = keras.Input((8, 8, 2))
    convolution = keras.layers.Conv2D(2, 3, padding="same", use_bias=False, name="conv")
    for number in range(3):
        # One kernel; each block has a scale of its own.
        y = keras.layers.BatchNormalization(name=f"bn_{number}")(convolution(x))
        x = keras.layers.Add()([x, keras.layers.ReLU()(y)])
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)), name="student")
    random = np.random.default_rng(0)
    ranges = {4: (-0.5, 0.5), 2: (-1, 1), 1: (0.5, 1.5)}
    model.set_weights([random.uniform(*ranges[weight.ndim], weight.shape) for weight in model.get_weights()])
    x = pictures(256)
    copy = quantize_aware(model, x)
    (exported,) = export(copy, tmp_path, x, ["litert_int8"])
    file = flatbuffer_utils.read_model(str(exported.path))
    (graph,) = file.subgraphs
    assert {tensor.type for tensor in graph.tensors} <= {TensorType.INT8, TensorType.INT32}
    kernels = [file.buffers[tensor.buffer] for tensor in graph.tensors if tuple(tensor.shape) == (2, 3, 3, 2)]
    # Those of the three blocks are the same integers, and in the file once.
    assert len(kernels) == 3 and len({id(kernel) for kernel in kernels}) == 1
    scale = np.abs(np.array(convolution.kernel)).max(axis=(0, 1, 2))
    steps = np.round(np.array(convolution.kernel) * 127 / scale).transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(np.frombuffer(bytes(kernels[0].data), "int8"), steps.ravel())


@pytest.mark.parametrize("rounds", [False, True])
def test_shared_weights_are_exported_once(rounds, tmp_path):
    inputs = x = keras.Input((64,))
    for number in range(4):
        x = keras.layers.Dense(64, activation="tanh", name=f"block_{number}")(x)
    model = tie_weights(keras.Model(inputs, x, name="tall"), [f"block_{number}" for number in range(4)])
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    model = quantize_aware(model, x) if rounds else model
    for each in export(model, tmp_path, x, ["keras", "onnx", "litert_float32", "litert_int8"]):
        weights = 64 * 64 * (1 if each.format == "litert_int8" else 4)
        # Room for what else a file has; of Keras' that is its config.
        assert weights < each.bytes < 2 * weights + 4000, each


def test_a_file_that_says_something_else_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "litert_float16", 1e-9)
    with pytest.raises(ValueError, match="student_float16.tflite' says something else than 'student'"):
        export(network(), tmp_path, pictures(), ["litert_float16"])
    assert (tmp_path / "student_float16.tflite").exists()


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Received: \\['tflite'\\]"):
        export(network(), tmp_path, pictures(), ["tflite"])
    two = keras.Model(inputs := keras.Input((4,)), [keras.layers.Dense(2)(inputs), inputs], name="two")
    with pytest.raises(ValueError, match="'two' has several, of shapes \\[\\(4, 2\\), \\(4, 4\\)\\]"):
        export(two, tmp_path, np.ones((4, 4), "float32"))
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(inputs)), name="open")
    with pytest.raises(ValueError, match="LiteRT wants inputs of known lengths. 'open' takes \\(None, None, 4\\)"):
        export(model, tmp_path, np.ones((4, 3, 4), "float32"), ["litert_float32"])
