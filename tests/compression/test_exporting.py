"""Exported files, run by their own runtimes."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from tensorflow.lite.python.schema_py_generated import TensorType
from tensorflow.lite.tools import flatbuffer_utils

from keras_distill import Distiller
from keras_distill.compression import (
    BitWidths,
    copy_weights,
    export,
    exporting,
    profile,
    quantize_aware,
    quantize_post_training,
    shrink,
    tie_weights,
)
from keras_distill.compression.exporting import FORMATS
from keras_distill.compression.onnx_files import write_onnx
from keras_distill.compression.runtimes import runtime
from tests.support.hub_models import gpt2, gpt2_preprocessor, prompts

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


def images(count=64):
    return np.random.default_rng(0).uniform(size=(count, 8, 8, 2)).astype("float32")


@pytest.mark.parametrize("format", FORMATS)
def test_every_file_matches_the_model(format, tmp_path):
    model, x = network(), images()
    (exported,) = export(model, tmp_path, x, [format])
    expected, outputs = np.array(model(x)), runtime(exported.path, format)(x)
    assert outputs.shape == expected.shape
    np.testing.assert_allclose(exported.difference, np.abs(outputs - expected).mean() / expected.std(), rtol=1e-5)
    assert exported.difference <= FORMATS[format]
    assert exported.agreement == np.mean(outputs.argmax(-1) == expected.argmax(-1))
    assert exported.bytes == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("format", FORMATS)
def test_inputs_keep_their_order(format, tmp_path):
    # The inputs have the same shape, so only their order distinguishes them. Their names are not in alphabetical order.
    inputs = {"tokens": keras.Input((4,), name="tokens"), "mask": keras.Input((4,), name="mask")}
    merged = keras.layers.Concatenate()([inputs["tokens"], keras.layers.ReLU()(inputs["mask"])])
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(merged), name="two")
    random = np.random.default_rng(0)
    x = {"tokens": random.normal(size=(64, 4)).astype("float32"), "mask": random.normal(size=(64, 4)).astype("float32")}
    (exported,) = export(model, tmp_path, x, [format])
    assert exported.difference <= min(FORMATS[format], 0.1)


def test_every_file_has_the_weights_of_a_quantized_model(tmp_path):
    x = images(256)
    copy = quantize_aware(network(), x, BitWidths(4, 8))
    for exported in export(copy, tmp_path, x, ["keras", "saved_model", "onnx"]):
        assert exported.difference < (0.05 if exported.format == "onnx" else 1e-4)


def test_fewer_bits_make_smaller_files(tmp_path):
    # Large enough that weights dominate the size of a file.
    inputs = keras.Input((64,))
    x = keras.layers.Dense(256, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(64)(x), name="wide")
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    sizes = {exported.format: exported.bytes for exported in export(model, tmp_path, x, LITERT)}
    assert sizes["litert_float16"] < 0.6 * sizes["litert_float32"]
    assert sizes["litert_int8"] < 0.35 * sizes["litert_float32"]
    assert sizes["litert_dynamic"] < 0.35 * sizes["litert_float32"]


def test_the_int8_file_of_a_quantized_model_matches_keras(tmp_path):
    x = images(256)
    copy = quantize_aware(network(), x, BitWidths(8, 8))
    expected = np.array(copy(x))
    (exported,) = export(copy, tmp_path, x, ["litert_int8"])
    outputs = runtime(exported.path, "litert_int8")(x)
    # Within two steps of the output, which has 255 steps from its minimum to its maximum.
    assert (
        np.abs(outputs - expected).max()
        <= 2.5 * (expected.max() - min(expected.min(), 0)) / 255 + 0.02 * expected.std()
    )


def test_the_int8_file_of_a_quantized_model_with_sums_has_no_floats(tmp_path):
    inputs = x = keras.Input((8, 8, 2))
    convolution = keras.layers.Conv2D(2, 3, padding="same", use_bias=False, name="conv")
    for number in range(3):
        # One kernel for all blocks, which have different scales.
        y = keras.layers.BatchNormalization(name=f"bn_{number}")(convolution(x))
        x = keras.layers.Add()([x, keras.layers.ReLU()(y)])
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)), name="student")
    random = np.random.default_rng(0)
    ranges = {4: (-0.5, 0.5), 2: (-1, 1), 1: (0.5, 1.5)}
    model.set_weights([random.uniform(*ranges[weight.ndim], weight.shape) for weight in model.get_weights()])
    x = images(256)
    copy = quantize_aware(model, x)
    (exported,) = export(copy, tmp_path, x, ["litert_int8"])
    file = flatbuffer_utils.read_model(str(exported.path))
    (graph,) = file.subgraphs
    assert {tensor.type for tensor in graph.tensors} <= {TensorType.INT8, TensorType.INT32}
    kernels = [file.buffers[tensor.buffer] for tensor in graph.tensors if tuple(tensor.shape) == (2, 3, 3, 2)]
    # The three blocks use the same integers, which are in the file once.
    assert len(kernels) == 3 and len({id(kernel) for kernel in kernels}) == 1
    scale = np.abs(np.array(convolution.kernel)).max(axis=(0, 1, 2))
    steps = np.round(np.array(convolution.kernel) * 127 / scale).transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(np.frombuffer(bytes(kernels[0].data), "int8"), steps.ravel())


@pytest.mark.parametrize("quantized", [False, True])
def test_tied_weights_are_exported_once(quantized, tmp_path):
    inputs = x = keras.Input((64,))
    for number in range(4):
        x = keras.layers.Dense(64, activation="tanh", name=f"block_{number}")(x)
    model = tie_weights(keras.Model(inputs, x, name="tall"), [f"block_{number}" for number in range(4)])
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    model = quantize_aware(model, x) if quantized else model
    for exported in export(model, tmp_path, x, ["keras", "onnx", "litert_float32", "litert_int8"]):
        weights = 64 * 64 * (1 if exported.format == "litert_int8" else 4)
        # 4,000 bytes are left for other content, such as the config of a Keras file.
        assert weights < exported.bytes < 2 * weights + 4000, exported


def test_error_for_a_file_that_differs_from_the_model(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "litert_float16", 1e-9)
    with pytest.raises(ValueError, match="student_float16.tflite' differ from those of 'student'"):
        export(network(), tmp_path, images(), ["litert_float16"])
    assert (tmp_path / "student_float16.tflite").exists()


def test_rejects_what_cannot_be_exported(tmp_path):
    with pytest.raises(ValueError, match="Received: \\['coreml'\\]"):
        export(network(), tmp_path, images(), ["coreml"])
    two = keras.Model(inputs := keras.Input((4,)), [keras.layers.Dense(2)(inputs), inputs], name="two")
    with pytest.raises(ValueError, match="'two' has several, of shapes \\[\\(4, 2\\), \\(4, 4\\)\\]"):
        export(two, tmp_path, np.ones((4, 4), "float32"))


def test_litert_takes_open_sizes_from_the_examples(tmp_path):
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(inputs)), name="open")
    x = np.random.default_rng(0).normal(size=(8, 3, 4)).astype("float32")
    (exported,) = export(model, tmp_path, x, ["litert_float32"])
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose(runtime(exported.path, exported.format)(x), x.mean(1) @ kernel + bias, atol=1e-6)


@pytest.mark.parametrize("format", ["litert_float32", "litert_dynamic", "onnx"])
def test_a_language_model_with_its_tokenizer(format, tmp_path):
    model, x = gpt2(1, gpt2_preprocessor()), prompts()[0]
    (exported,) = export(model, tmp_path, x, [format])
    assert exported.difference < FORMATS[format] and exported.agreement > 0.8


def test_the_package_can_be_imported_without_tensorflow_lite():
    # TensorFlow itself imports parts of it, so it is removed afterwards.
    removal = (
        "del tf.lite; sys.modules.update({name: None for name in sys.modules if name.startswith('tensorflow.lite')})"
    )
    code = f"import sys, keras, tensorflow as tf; {removal}; import keras_distill, keras_distill.preflight"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.case("F4")
def test_exact_gelu_in_onnx(tmp_path):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="gelu")(inputs)
    x = keras.layers.Lambda(lambda x: keras.ops.gelu(x, approximate=False))(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x), name="student")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    (exported,) = export(model, tmp_path, x, ["onnx"])
    np.testing.assert_allclose(runtime(exported.path, "onnx")(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.case("D8")
@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_a_converter_that_crashes_raises(layer, tmp_path):
    def recurrent(unroll):
        inputs = keras.Input((6, 3))
        x = keras.layers.Bidirectional(layer(4, unroll=unroll))(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(x), name="student")

    x = np.random.default_rng(0).normal(size=(64, 6, 3)).astype("float32")
    message = "^TensorFlow cannot convert 'student' to 'litert_int8': .*`unroll=True`"
    with pytest.raises(ValueError, match=message):
        export(recurrent(False), tmp_path, x, ["litert_int8"])
    # The advice works.
    (exported,) = export(recurrent(True), tmp_path, x, ["litert_int8"])
    (dynamic,) = export(recurrent(False), tmp_path, x, ["litert_dynamic"])
    assert exported.difference < 0.1 and dynamic.difference < 0.1


def test_nothing_is_written_for_a_model_that_cannot_be_exported(tmp_path):
    inputs = keras.Input((4,))
    two = keras.Model(inputs, {"a": keras.layers.Dense(2)(inputs), "b": inputs}, name="two")
    with pytest.raises(ValueError, match="'two' has several"):
        export(two, tmp_path / "files", np.ones((4, 4), "float32"))
    assert not (tmp_path / "files").exists()
    # The advice works.
    export(keras.Model(two.inputs, two.outputs[0]), tmp_path / "one", np.ones((4, 4), "float32"), ["keras"])


@pytest.mark.case("E13")
@pytest.mark.parametrize("format", ["keras", "saved_model"])
def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch, format):
    model, x = network(), images(8)
    (exported,) = export(model, tmp_path, x, [format])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write = exporting._write

    def interrupted(*arguments):
        write(*arguments)
        raise OSError("No space left on device")

    monkeypatch.setattr(exporting, "_write", interrupted)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    with pytest.raises(OSError, match="No space left"):
        export(model, tmp_path, x, [format])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    export(model, tmp_path, x, [format])
    np.testing.assert_allclose(runtime(exported.path, format)(x), model(x), rtol=1e-4)
    assert list(tmp_path.iterdir()) == [exported.path]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_examples_of_other_dtypes(format, dtype, tmp_path):
    # Keras casts the inputs of a model to its dtype.
    x = (255 * images(16)).astype(dtype)
    (exported,) = export(network(), tmp_path, x, [format])
    assert exported.difference <= FORMATS[format]


def test_a_path_or_a_distiller_is_not_a_model(tmp_path):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    distiller = Distiller(student=network, teacher=None, terms=[])
    (file,) = export(network, tmp_path / "files", np.zeros((4, 4)), ["keras"])
    functions = (
        lambda model: export(model, tmp_path / "none", np.zeros((4, 4))),
        lambda model: shrink(model, width=0.5),
        lambda model: tie_weights(model, ["dense", "dense"]),
        lambda model: quantize_aware(model, np.zeros((4, 4))),
        lambda model: quantize_post_training(model, "int8"),
        lambda model: copy_weights(model, network),
        lambda model: copy_weights(network, model),
        lambda model: profile(model, file, np.zeros((4, 4))),
    )
    for function in functions:
        with pytest.raises(ValueError, match="Load a file by keras.saving.load_model"):
            function("model.keras")
        with pytest.raises(ValueError, match="Pass the student of a distiller: `distiller.student`"):
            function(distiller)
    assert not (tmp_path / "none").exists()


def test_an_error_of_the_file_system_is_not_one_of_the_model(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        write_onnx(network(), tmp_path / "file" / "student.onnx")
