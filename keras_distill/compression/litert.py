"""Conversion to LiteRT files.

The converter of TensorFlow ends its process by a segmentation fault when it calibrates some models, such as recurrent
layers. For int8, `convert` therefore runs this file as a script in a new process.
"""

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any


def convert(saved_model: str | os.PathLike, format: str, examples: list[Mapping[str, Any]], name: str) -> bytes:
    """Return the content of a LiteRT file. Converts to int8 in a separate process.

    Args:
        saved_model: Folder of a SavedModel.
        format: One of the formats of `export` that begin with "litert".
        examples: `[{input name: array}]`, each a batch of one, to calibrate "litert_int8".
        name: Name of the model, for the error.

    Raises:
        ValueError: If the conversion to int8 fails or ends its process.
    """
    if format != "litert_int8":
        return _convert(os.fspath(saved_model), format, examples)
    with tempfile.TemporaryDirectory() as folder:
        request, result = pathlib.Path(folder) / "request.pickle", pathlib.Path(folder) / "model.tflite"
        request.write_bytes(pickle.dumps((os.fspath(saved_model), format, examples)))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        process = subprocess.run(
            [sys.executable, __file__, request, result], capture_output=True, text=True, env=environment, check=False
        )
        if process.returncode:
            raise ValueError(f"TensorFlow cannot convert '{name}' to '{format}': {_reason(process)}")
        return result.read_bytes()


def _reason(process):
    if process.returncode < 0:
        return (
            f"its converter crashed ({signal.Signals(-process.returncode).name}). If the model has recurrent layers, "
            "create them with `unroll=True`, or export another format, such as 'litert_dynamic'."
        )
    return process.stderr.strip().rpartition("\n")[2]


def _convert(saved_model, format, examples):
    """Return the content of a LiteRT file, converted in this process."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    if format != "litert_float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if format == "litert_float16":
        converter.target_spec.supported_types = [tf.float16]
    if format == "litert_int8":
        converter.representative_dataset = lambda: iter(examples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return _merge_equal_buffers(converter.convert())


def _merge_equal_buffers(content):
    """Store equal buffers of a LiteRT file once: the converter writes shared weights once per use."""
    # Imported here: TensorFlow may drop `tensorflow.lite`, and everything else must still work.
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    first_of_content = {}
    for number, buffer in enumerate(model.buffers):
        # Buffers without data hold activations.
        if buffer.data is not None and len(buffer.data):
            first = first_of_content.setdefault(bytes(buffer.data), number)
            if first != number:
                buffer.data = None
                for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
                    tensor.buffer = first if tensor.buffer == number else tensor.buffer
    return flatbuffer_utils.convert_object_to_bytearray(model)


if __name__ == "__main__":
    pathlib.Path(sys.argv[2]).write_bytes(_convert(*pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())))
