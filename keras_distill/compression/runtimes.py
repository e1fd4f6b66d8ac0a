"""Exported files, each run by its own runtime; and what a file costs in a process that has nothing else.

`costs` starts this file as a script, so that it must not import what a device would not have.
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
from typing import NamedTuple

import numpy as np

# Predictions that are not timed, that are timed in any case, and seconds after which no more are.
_UNTIMED, _LEAST, _SECONDS = 10, 20, 10.0


class Costs(NamedTuple):
    """What one prediction of one example costs.

    Attributes:
        median: Milliseconds.
        p95: Milliseconds within which 95 of 100 predictions end.
        memory: Bytes that loading the file and running it add to a process that has the runtime; None where the system
            does not tell.
    """

    median: float
    p95: float
    memory: int | None = None


def runtime(path, format, threads=None):
    """A function that runs an exported model: inputs in, an array of outputs out, in floats.

    Args:
        path: Of the file, or of a SavedModel's folder.
        format: Of `exporting.FORMATS`.
        threads: How many the runtime may use; its own choice by default. TensorFlow, which "keras" and "saved_model"
            run in, takes it only before its first operation in a process.

    Raises:
        ValueError: If the runtime is not installed.
    """
    if format == "keras":
        return _keras(path)
    if format == "saved_model":
        return _saved_model(path, threads)
    return _onnx(path, threads) if format == "onnx" else _litert(path, threads)


def latency(run, examples, repeats=500):
    """How long predictions take, `(median, p95)` in milliseconds.

    Args:
        run: Takes the examples and returns when the result is there, such as what `runtime` gives.
        examples: Inputs, a batch of one or more.
        repeats: How many predictions are timed, or as many as 10 seconds allow; after 10 that are not.
    """
    for _ in range(_UNTIMED):
        run(examples)
    taken, begun = [], time.perf_counter()
    while len(taken) < _LEAST or (len(taken) < repeats and time.perf_counter() - begun < _SECONDS):
        start = time.perf_counter()
        run(examples)
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken)), float(np.percentile(taken, 95))


def measure_costs(path, format, example, threads=1):
    """The `Costs` of a file in a process of its own, which has loaded nothing but the runtime.

    Args:
        path: Of the file, or of a SavedModel's folder.
        format: Of `exporting.FORMATS`, but "keras": a model of Keras is called in its own process.
        example: Inputs, as the model takes them, a batch of one.
        threads: How many the runtime may use.

    Raises:
        RuntimeError: If the process fails, with what it said last.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = pathlib.Path(folder) / "asked.pickle"
        asked.write_bytes(pickle.dumps((os.fspath(path), format, example, threads)))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        run = subprocess.run(
            [sys.executable, __file__, asked], capture_output=True, text=True, env=environment, check=False
        )
    if run.returncode:
        raise RuntimeError(f"'{path}' could not be run by itself: {run.stderr.strip().rpartition(chr(10))[2]}")
    return Costs(**json.loads(run.stdout.splitlines()[-1]))


def _measured(path, format, example, threads):
    """`Costs` as a dictionary, in this process."""
    # The runtime itself is loaded before memory is looked at.
    if format == "saved_model":
        _tensorflow(threads).zeros(()).numpy()
    elif format == "onnx":
        _onnxruntime()
    else:
        _interpreter()
    before = _peak(reset=True)
    run = runtime(path, format, threads)
    median, p95 = latency(run, example)
    after = _peak()
    return {"median": median, "p95": p95, "memory": None if None in (before, after) else after - before}


def _peak(reset=False):
    """The most bytes that this process ever had in memory, or since it was reset; None where nobody tells."""
    status = pathlib.Path("/proc/self/status")
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    except (OSError, KeyError):
        return None


def _keras(path):
    import keras

    model = keras.saving.load_model(path)
    return lambda x: np.asarray(model(x, training=False))


def _saved_model(path, threads):
    tf = _tensorflow(threads)
    loaded = tf.saved_model.load(os.fspath(path))
    # Held with the function, which does not hold it.
    return lambda x, loaded=loaded: _first(loaded.serve(tf.nest.map_structure(tf.constant, x))).numpy()


def _tensorflow(threads):
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def _onnx(path, threads):
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    names = [taken.name for taken in session.get_inputs()]
    return lambda x: session.run(None, dict(zip(names, _flat(x), strict=True)))[0]


def _onnxruntime():
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"Running ONNX takes onnxruntime: pip install 'keras-distill[export]'. ({error})") from error
    return onnxruntime


def _litert(path, threads):
    with silence_runtime():
        interpreter = _interpreter()(model_path=os.fspath(path), num_threads=threads)
        interpreter.allocate_tensors()
    # In the order of the model's own inputs, which the file has lost; their names were made for that.
    taken = sorted(interpreter.get_input_details(), key=lambda details: details["name"])
    (given,) = interpreter.get_output_details()

    def one(examples):
        for details, example in zip(taken, examples, strict=True):
            interpreter.set_tensor(details["index"], _steps(example[None], details))
        interpreter.invoke()
        return _numbers(interpreter.get_tensor(given["index"]), given)[0]

    return lambda x: np.stack([one(examples) for examples in zip(*_flat(x), strict=True)])


def _interpreter():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        # Larger and older, but always there.
        Interpreter = tf.lite.Interpreter
    return Interpreter


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


def _flat(x):
    """The arrays of a structure, in the order in which Keras flattens it."""
    if isinstance(x, dict):
        x = [x[key] for key in sorted(x)]
    return [array for part in x for array in _flat(part)] if isinstance(x, list | tuple) else [np.asarray(x)]


def _first(x):
    return x if not isinstance(x, dict | list | tuple) else _first(next(iter(x.values() if isinstance(x, dict) else x)))


@contextlib.contextmanager
def silence_runtime():
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


if __name__ == "__main__":
    print(json.dumps(_measured(*pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))))
