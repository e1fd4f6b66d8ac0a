"""Benchmark of labelling with Beam against `label`, to extrapolate to a billion examples.

```
python -m tests.benchmarks.beam_labelling
```

The convolutional teacher of `tests/benchmarks/pairs.py` labels the same images by `predict`, by `label`, and by
`LabelWithTeacher` on Beam's local runner with one worker process and with two, in turn. Beam's time is that of the
whole pipeline, including the start of processes. The last line is JSON: examples per second of each, and bytes on disk
per example with 10 and 1000 logits in float16 and with the top 32 of 1000.
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

TURNS = flags.DEFINE_integer("beam_turns", 3, "Number of timings of each.", lower_bound=1)
PICTURES = flags.DEFINE_integer("pictures", 30_000, "Number of images labelled in one timing.", lower_bound=128)


def by_beam(path, x, batch_size, processes):
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


def by_label(teacher, x, batch_size):
    with tempfile.TemporaryDirectory() as folder:
        label(teacher, x, folder, batch_size=batch_size, verbose=0)


def row_bytes(classes, top_k=None):
    """Return the bytes of one example with this number of float16 logits, including its fingerprint."""
    taps = packing.stored_taps({"output": tf.TensorSpec((None, classes))}, "float16", top_k)
    return packing.row_bytes(taps) + np.dtype(packing.fingerprint_dtype(taps)).itemsize


def main(_):
    logging.set_verbosity(logging.WARNING)
    pair = next(pair for name, pair in PAIRS.items() if name.startswith("convolutional"))
    x, _ = examples(pair, PICTURES.value)
    teacher = pair.teacher()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "teacher.keras"
        teacher.save(path)
        functions = {
            "predict": lambda: teacher.predict(x, batch_size=pair.batch, verbose=0),
            "label": lambda: by_label(keras.saving.load_model(path), x, pair.batch),
            "beam_1": lambda: by_beam(path, x, pair.batch, 1),
            "beam_2": lambda: by_beam(path, x, pair.batch, 2),
        }
        times = timing.interleaved(functions, TURNS.value, f"{PICTURES.value} images")
    results = {name: round(PICTURES.value / float(np.median(seconds)), 1) for name, seconds in times.items()}
    results |= {"bytes_10": row_bytes(10), "bytes_1000": row_bytes(1000), "bytes_top_32": row_bytes(1000, 32)}
    print(json.dumps(results))


if __name__ == "__main__":
    app.run(main)
