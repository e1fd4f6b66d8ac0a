"""Students as files for devices, each loaded back by its own runtime and compared with the Keras model."""

import pathlib
import tempfile
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from keras_distill.compression.quantization import Quantized, bake_quantization
from keras_distill.compression.runtimes import runtime, silence_runtime
from keras_distill.models.specs import input_specs
from keras_distill.models.taps import walk_layers

# How far the outputs of a file may be from the model's: the mean difference in units of their standard deviation.
FORMATS = {
    "keras": 1e-6,
    "saved_model": 1e-4,
    "onnx": 1e-4,
    "litert_float32": 1e-4,
    "litert_float16": 1e-2,
    "litert_dynamic": 0.2,
    "litert_int8": 0.4,
}
USUAL = ("keras", "saved_model", "litert_float32", "litert_int8")
_SUFFIXES = {"keras": ".keras", "saved_model": "", "onnx": ".onnx"}
# Examples that outputs are compared on, and that ranges are taken from.
_LOOKED_AT = 256


class Exported(NamedTuple):
    """One file of a model.

    Attributes:
        format: Of `FORMATS`.
        path: Where it is; of a SavedModel a folder.
        bytes: On disk.
        difference: Mean absolute difference of its outputs from the model's, in units of their standard deviation.
        agreement: The share of examples for which it gives the same class, 0 to 1.
    """

    format: str
    path: pathlib.Path
    bytes: int
    difference: float
    agreement: float


def export(model, folder, examples, formats=USUAL, name=None):
    """Writes a model in several formats, loads each file by its own runtime, and compares what it says.

    ```
    keras             to go on with in Keras
    saved_model       TensorFlow, TensorFlow Serving
    onnx              ONNX Runtime and all else that reads ONNX; pip install 'keras-distill[export]'
    litert_float32    phones and microcontrollers: LiteRT, formerly TensorFlow Lite, in floats
    litert_float16    weights in half precision
    litert_dynamic    weights in 8 bits, activations in floats
    litert_int8       weights, activations, input and output in 8 bits, by the ranges that the examples come to
    ```

    LiteRT's files take one example at a time. A model from `quantized` is written with the weights that it rounds to,
    exactly; activations keep the ranges that it learnt, but for "litert_int8", where each operation's are those that
    the examples come to. ONNX Runtime then computes in 8 bits, too.

    Args:
        model: A built `keras.Model` of one output: a student, without its distiller.
        folder: Where to; made if it is not there. Files of the same name are replaced.
        examples: Inputs, as the model takes them, real ones: outputs are compared on the first 256, and ranges of
            "litert_int8" are those of the first 256.
        formats: Names of those that are wanted.
        name: Of the files. Defaults to the model's.

    Returns:
        List of `Exported`.

    Raises:
        ValueError: For an unknown format or one whose package is not installed, a model of several outputs, inputs of
            unknown lengths, or a file that says something else than the model: more than the format's limit in
            `FORMATS` away. The file stays, to be looked at.
    """
    unknown = [each for each in formats if each not in FORMATS]
    if unknown:
        raise ValueError(f"Models are exported as {list(FORMATS)}. Received: {unknown}.")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    examples = keras.tree.map_structure(lambda x: np.asarray(x)[:_LOOKED_AT], examples)
    outputs = model(examples, training=False)
    if keras.tree.is_nested(outputs):
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), outputs)
        raise ValueError(
            f"Models of one output are exported, and '{model.name}' has several, of shapes {shapes}. Export "
            "keras.Model(model.inputs, one_of_them)."
        )
    said = np.asarray(outputs)
    limits, written = FORMATS, dict.fromkeys(formats, model)
    if any(isinstance(layer, Quantized) for _, layer in walk_layers(model)):
        # LiteRT leaves what has no range of its own, such as a sum, in floats if anything has one.
        plain = bake_quantization(model, activations=False)
        written = dict.fromkeys(formats, bake_quantization(model)) | {"litert_int8": plain}
        # ONNX Runtime computes in integers where activations are rounded, and rounds weights and biases anew for that.
        limits = FORMATS | {"onnx": FORMATS["litert_int8"]}
    found = []
    for each in formats:
        path = path_of(folder, name or model.name, each)
        _write(each, written[each], path, examples)
        exported = Exported(each, path, size(path), *_compared(runtime(path, each)(examples), said))
        found.append(exported)
        if not exported.difference <= limits[each]:
            raise ValueError(
                f"'{path}' says something else than '{model.name}': its outputs are {exported.difference:.2g} of their "
                f"standard deviation away on average, and {limits[each]:g} is allowed; {exported.agreement:.1%} of "
                "the examples get the same class. Are the examples like those that the model was trained on?"
            )
    return found


def path_of(folder, name, format):
    """Where `export` writes a format, a `pathlib.Path`.

    Args:
        folder: As for `export`.
        name: Of the files.
        format: Of `FORMATS`.
    """
    suffix = _SUFFIXES.get(format, f"_{format.removeprefix('litert_')}.tflite")
    return pathlib.Path(folder) / f"{name}{suffix}"


def size(path):
    """Bytes of a file, or of all files of a folder."""
    path = pathlib.Path(path)
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _write(format, model, path, examples):
    with silence_runtime():
        if format == "keras":
            model.save(path)
        elif format == "saved_model":
            model.export(path, verbose=False)
        elif format == "onnx":
            _write_onnx(model, path)
        else:
            path.write_bytes(_converted(format, model, examples))


def _write_onnx(model, path):
    try:
        model.export(path, format="onnx", verbose=False, input_signature=[input_specs(None, model)])
    except ImportError as error:
        raise ValueError(f"Writing ONNX takes tf2onnx: pip install 'keras-distill[export]'. ({error})") from error


def _converted(format, model, examples):
    """A LiteRT file's content."""
    specs = input_specs(None, model)
    shapes = [tuple(spec.shape) for spec in keras.tree.flatten(specs)]
    if any(None in shape[1:] for shape in shapes):
        raise ValueError(
            f"LiteRT wants inputs of known lengths. '{model.name}' takes {', '.join(map(str, shapes))}: give its Input "
            "a fixed shape."
        )
    # Names whose alphabetic order is that of the inputs: the runtime has nothing else to tell them by.
    ones = [
        tf.TensorSpec((1, *spec.shape[1:]), spec.dtype, name=f"input_{number:03}")
        for number, spec in enumerate(keras.tree.flatten(specs))
    ]

    def serve(*inputs):
        return model(keras.tree.pack_sequence_as(specs, inputs), training=False)

    def calibration():
        for arrays in zip(*(x[:, None] for x in keras.tree.flatten(examples))):
            yield {spec.name: array for spec, array in zip(ones, arrays)}

    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, ones)
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if format != "litert_float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if format == "litert_float16":
            converter.target_spec.supported_types = [tf.float16]
        if format == "litert_int8":
            converter.representative_dataset = calibration
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return _each_once(converter.convert())


def _each_once(content):
    """A LiteRT file in which equal buffers are one: the converter rounds shared weights anew for each of their uses."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    first = {}
    for number, buffer in enumerate(model.buffers):
        # Those without content are places for what is computed.
        if buffer.data is not None and len(buffer.data):
            kept = first.setdefault(bytes(buffer.data), number)
            if kept != number:
                buffer.data = None
                for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
                    tensor.buffer = kept if tensor.buffer == number else tensor.buffer
    return flatbuffer_utils.convert_object_to_bytearray(model)


def _compared(outputs, said):
    spread = max(float(np.std(said)), 1e-12)
    same = np.argmax(outputs, -1) == np.argmax(said, -1)
    return float(np.mean(np.abs(outputs - said))) / spread, float(np.mean(same))
