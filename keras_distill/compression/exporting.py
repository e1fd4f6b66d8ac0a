"""Export to Keras, SavedModel, ONNX and LiteRT files, each checked against the model in its own runtime."""

import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression import litert
from keras_distill.compression.fake_quantization import Quantized
from keras_distill.compression.onnx_files import write_onnx
from keras_distill.compression.quantization import bake_quantization
from keras_distill.compression.runtimes import runtime, silence_runtime
from keras_distill.models.layers import walk_layers
from keras_distill.models.specs import input_specs, symbolic_inputs
from keras_distill.types import Structure
from keras_distill.utils.arguments import check_model
from keras_distill.utils.files import atomic_path

# Formats with their tolerances: largest mean absolute difference of the outputs from the model's, in units of the
# standard deviation of the model's outputs.
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
# Other names of the formats.
ALIASES = {
    "tflite": "litert_float32",
    "litert": "litert_float32",
    "tflite_float32": "litert_float32",
    "tflite_float16": "litert_float16",
    "tflite_int8": "litert_int8",
    "float16": "litert_float16",
    "dynamic": "litert_dynamic",
    "int8": "litert_int8",
    "savedmodel": "saved_model",
    "tf": "saved_model",
}
_SUFFIXES = {"keras": ".keras", "saved_model": "", "onnx": ".onnx"}
# Number of examples used to compare outputs and to calibrate int8 ranges.
_NUM_EXAMPLES = 256


class Exported(NamedTuple):
    """Exported file of a model.

    Attributes:
        format: One of `FORMATS`.
        path: Path of the file; for a SavedModel, of its folder.
        bytes: Size on disk in bytes.
        difference: Mean absolute difference of its outputs from the model's, in units of the standard deviation of the
            model's outputs.
        agreement: Fraction of examples with the same predicted class as the model, 0 to 1; always 1 for a single
            output unit.
    """

    format: str
    path: pathlib.Path
    bytes: int
    difference: float
    agreement: float


def export(
    model: keras.Model,
    folder: str | os.PathLike,
    examples: Structure,
    formats: Sequence[str] = USUAL,
    name: str | None = None,
) -> list[Exported]:
    """Export a model to one or more formats and compare each file with the model.

    ```
    keras             Keras, to continue training
    saved_model       TensorFlow and TensorFlow Serving
    onnx              ONNX Runtime and other ONNX runtimes; pip install 'keras-distill[export]'
    litert_float32    LiteRT (formerly TensorFlow Lite) for phones and microcontrollers, float32
    litert_float16    LiteRT, weights in float16
    litert_dynamic    LiteRT, weights in int8, activations in float32 (dynamic-range quantization)
    litert_int8       LiteRT, weights, activations, input and output in int8 (full-integer quantization)
    ```

    Each file is loaded by its own runtime, and its outputs are compared with the model's. LiteRT files take one example
    at a time. Where the model's inputs have an open size, such as the number of tokens, they take that of `examples`.

    A model from `quantize_aware` is exported with exactly its quantized weights. Its activations keep their trained
    ranges, except in "litert_int8", which calibrates the range of every operation on `examples`. ONNX Runtime computes
    such a model in int8 as well.

    Args:
        model: A built `keras.Model` with one output: the student, not its distiller.
        folder: Output folder, created if necessary. Files of the same name are replaced once
            the new ones are completely written.
        examples: Real model inputs, some hundreds. The first 256 are used to compare outputs and to calibrate
            "litert_int8".
        formats: Formats to write, or other names of them in `ALIASES`, such as "tflite". Defaults to "keras",
            "saved_model", "litert_float32" and "litert_int8".
        name: File name without suffix. Defaults to the model's name.

    Returns:
        List of `Exported`, in the order of `formats`.

    Raises:
        ValueError: Before a file is written: if a format is unknown, or if the model has several outputs. Later: if the
            package of a format is not installed, if TensorFlow cannot convert the model to LiteRT, or if the outputs of
            a file differ from the model's by more than the tolerance in `FORMATS`. That file is kept for inspection.

    Example:

    >>> (file,) = export(student, "files", x, ["keras"])
    >>> file.path.name == f"{student.name}.keras", file.agreement
    (True, 1.0)
    """
    check_model(model, "model")
    formats = check_formats(formats, "formats")
    examples = keras.tree.map_structure(lambda x: np.asarray(x)[:_NUM_EXAMPLES], examples)
    expected = model(examples, training=False)
    if keras.tree.is_nested(expected):
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), expected)
        raise ValueError(
            f"Only models with one output can be exported. '{model.name}' has several, of shapes {shapes}. Export one "
            "of them: keras.Model(model.inputs, output)."
        )
    expected = np.asarray(expected)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sources, tolerances = _sources(model, formats)
    results = []
    for format in formats:
        path = path_of(folder, name or model.name, format)
        with atomic_path(path) as unfinished:
            _write(format, sources[format], unfinished, examples)
        difference, agreement = _compare(runtime(path, format)(examples), expected)
        results.append(Exported(format, path, size(path), difference, agreement))
        # Negated, so that NaN is an error.
        if not difference <= tolerances[format]:
            raise ValueError(
                f"The outputs of '{path}' differ from those of '{model.name}' by {difference:.2g} standard deviations "
                f"on average ({tolerances[format]:g} allowed); {agreement:.1%} of the examples get the same class. "
                "Pass `examples` from the data that the model was trained on."
            )
    return results


def check_formats(names: Sequence[str], argument: str) -> list[str]:
    """Return formats by their names or `ALIASES`, each once.

    Args:
        names: Names in any case.
        argument: What the names were given as, for the error.

    Raises:
        ValueError: For an unknown name.
    """
    keys = [name.lower().replace("-", "_") for name in names]
    formats = [ALIASES.get(key, key) for key in keys]
    unknown = [name for name, format in zip(names, formats) if format not in FORMATS]
    if unknown:
        raise ValueError(f"`{argument}` must be among {list(FORMATS)}. Received: {unknown}")
    return list(dict.fromkeys(formats))


def path_of(folder: str | os.PathLike, name: str, format: str) -> pathlib.Path:
    """Return the path to which `export` writes a format.

    Args:
        folder: Output folder.
        name: File name without suffix.
        format: One of `FORMATS`.
    """
    suffix = _SUFFIXES.get(format, f"_{format.removeprefix('litert_')}.tflite")
    return pathlib.Path(folder) / f"{name}{suffix}"


def size(path: str | os.PathLike) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    path = pathlib.Path(path)
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _sources(model, formats):
    """Return `{format: model to write}` and `{format: tolerance}`."""
    if not any(isinstance(layer, Quantized) for _, layer in walk_layers(model)):
        return dict.fromkeys(formats, model), FORMATS
    sources = dict.fromkeys(formats, bake_quantization(model))
    # If some activations have fake quantization, LiteRT keeps all others, such as sums, in floats. Without any it
    # calibrates the range of every operation.
    sources["litert_int8"] = bake_quantization(model, activations=False)
    # ONNX Runtime turns fake quantization into integer arithmetic, for which it quantizes weights and biases once more.
    return sources, FORMATS | {"onnx": FORMATS["litert_int8"]}


def _write(format, model, path, examples):
    with silence_runtime():
        if format == "keras":
            model.save(path)
        elif format == "saved_model":
            model.export(path, verbose=False)
        elif format == "onnx":
            write_onnx(model, path)
        else:
            path.write_bytes(_convert_to_litert(format, model, examples))


def _convert_to_litert(format, model, examples):
    """Return the content of a LiteRT file."""
    if getattr(model, "preprocessor", None) is not None:
        # A task of KerasHub would be saved with its tokenizer, whose tables LiteRT does not have.
        model = keras.Model(symbolic_inputs(model), model.output, name=model.name)
    specs = input_specs(None, model)
    leaves = keras.tree.flatten(examples)
    # A LiteRT file loses the order of the inputs. These names sort alphabetically in that order. Sizes that the model
    # leaves open are those of the examples.
    single_specs = [
        tf.TensorSpec((1, *leaf.shape[1:]), spec.dtype, name=f"input_{number:03}")
        for number, (spec, leaf) in enumerate(zip(keras.tree.flatten(specs), leaves))
    ]

    def serve(*inputs):
        return model(keras.tree.pack_sequence_as(specs, inputs), training=False)

    calibration = [
        {spec.name: array for spec, array in zip(single_specs, arrays)}
        for arrays in zip(*(x[:, None].astype(spec.dtype.as_numpy_dtype) for x, spec in zip(leaves, single_specs)))
    ]
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, single_specs)
        archive.write_out(folder, verbose=False)
        return litert.convert(folder, format, calibration, model.name)


def _compare(outputs, expected):
    """Return `(mean absolute difference in standard deviations, fraction of equal classes)`."""
    deviation = max(float(np.std(expected)), 1e-12)
    same = np.argmax(outputs, -1) == np.argmax(expected, -1)
    return float(np.mean(np.abs(outputs - expected))) / deviation, float(np.mean(same))
