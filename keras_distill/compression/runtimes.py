"""Runtimes of exported files, with latency and peak memory measured in a separate process.

`measure_costs` runs this file as a script in a new process, so it must not import what a device would not have.
"""

import contextlib
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

# Number of warm-up predictions, minimum number of timed predictions, and time limit in seconds.
_NUM_WARMUP, _MIN_REPEATS, _MAX_SECONDS = 10, 20, 10.0


class Costs(NamedTuple):
    """Cost of one prediction for one example.

    Attributes:
        median: Median latency in milliseconds.
        p95: 95th percentile of the latency in milliseconds.
        memory: Peak memory in bytes that the loaded, running file adds to a process with its runtime; None where the
            operating system does not provide it.
    """

    median: float
    p95: float
    memory: int | None = None


def runtime(path: str | os.PathLike, format: str, threads: int | None = None) -> Callable[[Any], np.ndarray]:
    """Return a function that runs an exported file: model inputs to a float array of outputs.

    Args:
        path: Path of the file; for a SavedModel, of its folder.
        format: One of `exporting.FORMATS`.
        threads: Number of threads of the runtime. None leaves the choice to the runtime. For "saved_model" TensorFlow
            accepts it only before the first operation of a process; "keras" ignores it. Defaults to None.

    Raises:
        ValueError: If the runtime is not installed.
    """
    if format == "keras":
        return _load_keras(path)
    if format == "saved_model":
        return _load_saved_model(path, threads)
    return _load_onnx(path, threads) if format == "onnx" else _load_litert(path, threads)


def onnx_session(path: str | os.PathLike, threads: int | None = None) -> Any:
    """Return the `onnxruntime.InferenceSession` of an ONNX file, on the CPU.

    Args:
        path: Path of the file.
        threads: Number of threads. None leaves the choice to ONNX Runtime. Defaults to None.

    Raises:
        ValueError: If onnxruntime is not installed, or cannot run the file.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # Its errors have no common class.
        raise ValueError(f"ONNX Runtime cannot run '{path}': {error}") from error


def latency(predict: Callable[[Any], Any], examples: Any, repeats: int = 500) -> tuple[float, float]:
    """Return the median and 95th percentile of the latency of a prediction, in milliseconds.

    Ten warm-up predictions are not timed. At most 10 seconds of predictions are timed, but at least 20 predictions.

    Args:
        predict: Function of the examples that returns when the result is available, such as the result of `runtime`.
        examples: Model inputs, a batch of one or more.
        repeats: Number of timed predictions. Defaults to 500.
    """
    for _ in range(_NUM_WARMUP):
        predict(examples)
    times, begin = [], time.perf_counter()
    while len(times) < _MIN_REPEATS or (len(times) < repeats and time.perf_counter() - begin < _MAX_SECONDS):
        start = time.perf_counter()
        predict(examples)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times)), float(np.percentile(times, 95))


def measure_costs(path: str | os.PathLike, format: str, example: Any, threads: int = 1) -> Costs:
    """Measure the latency and peak memory of a file in a separate process that loads nothing but the runtime.

    Args:
        path: Path of the file; for a SavedModel, of its folder.
        format: One of `exporting.FORMATS` except "keras", which has no separate runtime.
        example: Model inputs, a batch of one.
        threads: Number of threads of the runtime, >= 1. Defaults to 1.

    Raises:
        RuntimeError: If the process fails. The message contains the last line of its error output.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = pathlib.Path(folder) / "request.pickle"
        request.write_bytes(pickle.dumps((os.fspath(path), format, example, threads)))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        process = subprocess.run(
            [sys.executable, __file__, request], capture_output=True, text=True, env=environment, check=False
        )
    if process.returncode:
        last_line = process.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"'{path}' failed in a separate process: {last_line}")
    return Costs(**json.loads(process.stdout.splitlines()[-1]))


def _measure(path, format, example, threads):
    """Return `Costs` as a dictionary, measured in this process."""
    # The runtime is loaded before the first measurement, so that its own memory does not count.
    if format == "saved_model":
        _tensorflow(threads).zeros(()).numpy()
    elif format == "onnx":
        _onnxruntime()
    else:
        _litert_interpreter()
    before = _peak_memory(reset=True)
    predict = runtime(path, format, threads)
    median, p95 = latency(predict, example)
    after = _peak_memory()
    return {"median": median, "p95": p95, "memory": None if None in (before, after) else after - before}


def _peak_memory(reset=False):
    """Return the peak resident memory of this process in bytes, since the last reset; None where unavailable."""
    status = pathlib.Path("/proc/self/status")
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    except (OSError, KeyError):
        return None


def _load_keras(path):
    import keras

    model = keras.saving.load_model(path)
    return lambda x: np.asarray(model(x, training=False))


def _load_saved_model(path, threads):
    tf = _tensorflow(threads)
    loaded = tf.saved_model.load(os.fspath(path))
    (positional, _) = loaded.serve.concrete_functions[0].structured_input_signature
    dtypes = [spec.dtype for spec in tf.nest.flatten(positional)]

    # `loaded` must live as long as the function: `loaded.serve` does not hold a reference to it.
    def predict(x, loaded=loaded):
        # As Keras does, which casts float64 and uint8 inputs to the dtype of the model.
        tensors = [tf.cast(leaf, dtype) for leaf, dtype in zip(tf.nest.flatten(x), dtypes, strict=True)]
        return _first(loaded.serve(tf.nest.pack_sequence_as(x, tensors))).numpy()

    return predict


def _tensorflow(threads):
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def _load_onnx(path, threads):
    session = onnx_session(path, threads)
    inputs = session.get_inputs()

    def predict(x):
        arrays = {details.name: _cast(array, details.type) for details, array in zip(inputs, _flatten(x), strict=True)}
        return session.run(None, arrays)[0]

    return predict


def _cast(array, onnx_type):
    """Return an array in the dtype of an ONNX input, such as "tensor(float)", as Keras casts inputs."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(name, name)
    return array if dtype == "string" else array.astype(dtype, copy=False)


def _onnxruntime():
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"Running ONNX files requires onnxruntime. Run: pip install 'keras-distill[export]'. ({error})"
        ) from error
    return onnxruntime


def _load_litert(path, threads):
    with silence_runtime():
        interpreter = _litert_interpreter()(model_path=os.fspath(path), num_threads=threads)
        interpreter.allocate_tensors()
    # The file has lost the order of the model's inputs. `export` named them so that they sort in that order.
    input_details = sorted(interpreter.get_input_details(), key=lambda details: details["name"])
    (output_details,) = interpreter.get_output_details()

    def predict_one(arrays):
        for details, array in zip(input_details, arrays, strict=True):
            interpreter.set_tensor(details["index"], _quantize(array[None], details))
        interpreter.invoke()
        return _dequantize(interpreter.get_tensor(output_details["index"]), output_details)[0]

    return lambda x: np.stack([predict_one(arrays) for arrays in zip(*_flatten(x), strict=True)])


def _litert_interpreter():
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        # The interpreter of TensorFlow is larger and older, but installed with TensorFlow.
        import tensorflow as tf

        interpreter = tf.lite
    return interpreter.Interpreter


def _quantize(x, details):
    """Return inputs in the dtype of a LiteRT tensor: integers if it is quantized."""
    if not np.issubdtype(details["dtype"], np.integer) or not details["quantization"][0]:
        return x.astype(details["dtype"])
    scale, zero_point = details["quantization"]
    bounds = np.iinfo(details["dtype"])
    return np.clip(np.round(x / scale) + zero_point, bounds.min, bounds.max).astype(details["dtype"])


def _dequantize(x, details):
    scale, zero_point = details["quantization"]
    return (x.astype("float32") - zero_point) * scale if scale else x


def _flatten(x):
    """Return the arrays of a structure in the order of `keras.tree.flatten`, without importing Keras."""
    if isinstance(x, dict):
        x = [x[key] for key in sorted(x)]
    return [array for part in x for array in _flatten(part)] if isinstance(x, list | tuple) else [np.asarray(x)]


def _first(x):
    return x if not isinstance(x, dict | list | tuple) else _first(next(iter(x.values() if isinstance(x, dict) else x)))


@contextlib.contextmanager
def silence_runtime() -> Iterator[None]:
    """Suppress the output of converters and interpreters, C++ output included."""
    with open(os.devnull, "w") as devnull, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stderr = os.dup(2)
        os.dup2(devnull.fileno(), 2)
        try:
            with contextlib.redirect_stdout(devnull):
                yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


if __name__ == "__main__":
    print(json.dumps(_measure(*pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))))
