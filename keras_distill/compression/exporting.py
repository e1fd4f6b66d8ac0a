"""Students as files for devices, each loaded back by its own runtime and compared with the Keras model."""

import contextlib
import os
import pathlib
import tempfile
import warnings
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression.quantization import Quantized, rounded
from keras_distill.specs import input_specs
from keras_distill.taps import walk

# How far the outputs of a file may be from the model's: the mean difference in units of their standard deviation.
FORMATS = {
    "keras": 1e-6,
    "saved_model": 1e-4,
    "litert_float32": 1e-4,
    "litert_float16": 1e-2,
    "litert_dynamic": 0.2,
    "litert_int8": 0.4,
}
USUAL = ("keras", "saved_model", "litert_float32", "litert_int8")
_SUFFIXES = {"keras": ".keras", "saved_model": ""}


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
    litert_float32    phones and microcontrollers: LiteRT, formerly TensorFlow Lite, in floats
    litert_float16    weights in half precision
    litert_dynamic    weights in 8 bits, activations in floats
    litert_int8       weights, activations, input and output in 8 bits, by the ranges that the examples come to
    ```

    LiteRT's files take one example at a time. A model from `quantized` is written with the weights that it rounds to
    and the ranges that it learnt, so that "litert_int8" computes as it did.

    Args:
        model: A built `keras.Model` of one output: a student, without its distiller.
        folder: Where to; made if it is not there. Files of the same name are replaced.
        examples: Array of inputs, as the model takes them, real ones: outputs are compared on the first 256, and
            ranges of "litert_int8" are those of the first 256.
        formats: Names of those that are wanted.
        name: Of the files. Defaults to the model's.

    Returns:
        List of `Exported`.

    Raises:
        ValueError: For an unknown format, inputs of unknown lengths, or a file that says something else than the model:
            more than the format's limit in `FORMATS` away. The file stays, to be looked at.
    """
    unknown = [each for each in formats if each not in FORMATS]
    if unknown:
        raise ValueError(f"Models are exported as {list(FORMATS)}. Received: {unknown}.")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    examples = np.asarray(examples)[:256]
    said = np.asarray(model(examples, training=False))
    if any(isinstance(layer, Quantized) for _, layer in walk(model)):
        model = rounded(model)
    found = []
    for each in formats:
        path = path_of(folder, name or model.name, each)
        _write(each, model, path, examples)
        outputs = runtime(path, each)(examples)
        exported = Exported(each, path, size(path), *_compared(outputs, said))
        found.append(exported)
        if not exported.difference <= FORMATS[each]:
            raise ValueError(
                f"'{path}' says something else than '{model.name}': its outputs are {exported.difference:.2g} of their "
                f"standard deviation away on average, and {FORMATS[each]:g} is allowed; {exported.agreement:.1%} of "
                "the examples get the same class. Are the examples like those that the model was trained on?"
            )
    return found


def runtime(path, format):
    """A function that runs an exported model: an array of inputs in, an array of outputs out, in floats.

    Args:
        path: Of the file.
        format: Of `FORMATS`.
    """
    if format == "keras":
        model = keras.saving.load_model(path)
        return lambda x: np.asarray(model(x, training=False))
    if format == "saved_model":
        loaded = tf.saved_model.load(str(path))
        # Held with the function, which does not hold it.
        return lambda x, loaded=loaded: np.asarray(keras.tree.flatten(loaded.serve(tf.constant(x)))[0])
    return _litert(path)


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
    with _quiet():
        if format == "keras":
            model.save(path)
        elif format == "saved_model":
            model.export(path, verbose=False)
        else:
            path.write_bytes(_converted(format, model, examples))


def _converted(format, model, examples):
    """A LiteRT file's content."""
    spec = input_specs(None, model)
    if None in spec.shape[1:]:
        raise ValueError(
            f"LiteRT wants inputs of known lengths. '{model.name}' takes {tuple(spec.shape)}: give its Input a fixed "
            "shape."
        )
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        one = tf.TensorSpec((1, *spec.shape[1:]), spec.dtype, name="inputs")
        archive.add_endpoint("serve", lambda inputs: model(inputs, training=False), [one])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if format != "litert_float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if format == "litert_float16":
            converter.target_spec.supported_types = [tf.float16]
        if format == "litert_int8":
            converter.representative_dataset = lambda: ([example[None]] for example in examples)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()


def _litert(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    with _quiet():
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def one(x):
        interpreter.set_tensor(taken["index"], _steps(x[None], taken))
        interpreter.invoke()
        return _numbers(interpreter.get_tensor(given["index"]), given)[0]

    return lambda x: np.stack([one(example) for example in x])


def _steps(x, details):
    """Numbers as the integers that a quantised input takes."""
    if not np.issubdtype(details["dtype"], np.integer) or not details["quantization"][0]:
        return x.astype(details["dtype"])
    scale, zero = details["quantization"]
    bounds = np.iinfo(details["dtype"])
    return np.clip(np.round(x / scale) + zero, bounds.min, bounds.max).astype(details["dtype"])


def _numbers(steps, details):
    scale, zero = details["quantization"]
    return (steps.astype("float32") - zero) * scale if scale else steps


def _compared(outputs, said):
    spread = max(float(np.std(said)), 1e-12)
    same = np.argmax(outputs, -1) == np.argmax(said, -1)
    return float(np.mean(np.abs(outputs - said))) / spread, float(np.mean(same))


@contextlib.contextmanager
def _quiet():
    """Without what converters and interpreters print of their own business, from C++, too."""
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stdout(nowhere):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
