"""Benchmark of LabelWithTeacher against `label` and `predict`, and size of the cache per example.

```
python -m tests.benchmarks.beam_labelling
```

The convolutional teacher of `tests/benchmarks/pairs.py` runs on the same images in `predict`, in `label`, and in
`LabelWithTeacher` on Beam's FnApiRunner with one and with two worker processes. The measurements are interleaved. The
time of Beam includes the start of its processes. The last line is JSON: examples per second of each method, and bytes
on disk per example with 10 and 1000 logits in float16 and with the top 32 of 1000.
"""

import json
import pathlib
import tempfile

import apache_beam as beam
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from apache_beam.options.pipeline_options import PipelineOptions

from keras_distill.cache import label, packing
from keras_distill.pipelines.beam import LabelWithTeacher
from tests.benchmarks import timing
from tests.benchmarks.pairs import PAIRS, examples

TURNS = flags.DEFINE_integer("beam_turns", 3, "Measurements of each method.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 30_000, "Images in each measurement.", lower_bound=128)


def label_with_beam(path, x, batch_size, processes):
    options = ["--runner=FnApiRunner", "--sdk_container_image=unused"]
    if processes > 1:
        options += ["--direct_running_mode=multi_processing", f"--direct_num_workers={processes}"]
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", x)
        with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
            _ = (
                pipeline
                | beam.Create(range(0, len(x), batch_size))
                | beam.Reshuffle()
                | beam.FlatMap(read, f"{folder}/x.npy", batch_size)
                | LabelWithTeacher(path, f"{folder}/cache", x[0], batch_size=batch_size)
            )


def read(start, path, count):
    rows = np.load(path, mmap_mode="r")[start : start + count]
    return list(enumerate(rows, start))


def label_locally(teacher, x, batch_size):
    with tempfile.TemporaryDirectory() as folder:
        label(teacher, x, folder, batch_size=batch_size, verbose=0)


def row_bytes(classes, top_k=None):
    """Return the bytes per example with float16 logits of these classes, including its fingerprint."""
    taps = packing.stored_taps({"output": tf.TensorSpec((None, classes))}, "float16", top_k)
    return packing.row_bytes(taps) + np.dtype(packing.fingerprint_dtype(taps)).itemsize


def main(_):
    logging.set_verbosity(logging.WARNING)
    pair = next(pair for name, pair in PAIRS.items() if name.startswith("convolutional"))
    x, _ = examples(pair, IMAGES.value)
    teacher = pair.teacher()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "teacher.keras"
        teacher.save(path)
        functions = {
            "predict": lambda: teacher.predict(x, batch_size=pair.batch, verbose=0),
            "label": lambda: label_locally(keras.saving.load_model(path), x, pair.batch),
            "beam_1": lambda: label_with_beam(path, x, pair.batch, 1),
            "beam_2": lambda: label_with_beam(path, x, pair.batch, 2),
        }
        times = timing.interleaved(functions, TURNS.value, f"{IMAGES.value} images")
    result = {name: round(IMAGES.value / float(np.median(seconds)), 1) for name, seconds in times.items()}
    result |= {"bytes_10": row_bytes(10), "bytes_1000": row_bytes(1000), "bytes_top_32": row_bytes(1000, 32)}
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
