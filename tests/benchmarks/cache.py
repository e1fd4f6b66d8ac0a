"""Benchmark of the teacher cache: labeling against `predict`, reading against the student's step, and size on disk.

```
python -m tests.benchmarks.cache
```

All functions are timed in one process, in turn. The last line is JSON:

    labelling_ratio      examples labeled per second / examples per second of the teacher's `predict`, median over the
                         pairs
    reading_10           batches read and joined per second / steps of the student per second, 10 logits; shuffled
    reading_1000         the same with 1000 logits in float16
    check_share          time to compute and compare the examples' fingerprints / time of a student's step
    bytes_10, bytes_1000, bytes_top_32
                         bytes on disk / bytes of the information: 10 and 1000 float16 logits, the top 32 of 1000 with
                         their class indices and the sum of the others
"""

import json
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill.cache import indexed, label, open_cache
from tests.benchmarks import timing
from tests.benchmarks.pairs import PAIRS, examples
from tests.benchmarks.step_time import compiled, steps

ROUNDS = flags.DEFINE_integer("cache_rounds", 4, "Number of timings of each function.", lower_bound=1)
BATCHES = flags.DEFINE_integer("batches", 192, "Number of batches labeled in one timing.", lower_bound=1)
READ = 20_000
STEPS = 8


def labelling_ratio(name, pair):
    """Return the speed of labeling divided by that of `predict`, both from the same arrays."""
    x, _ = examples(pair, BATCHES.value * pair.batch)
    teacher = pair.teacher()
    dataset = tf.data.Dataset.from_tensor_slices(x)

    def label_dataset():
        with tempfile.TemporaryDirectory() as folder:
            label(teacher, dataset, folder, batch_size=pair.batch, verbose=0)

    functions = {"predict": lambda: teacher.predict(x, batch_size=pair.batch, verbose=0), "label": label_dataset}
    times = timing.interleaved(functions, ROUNDS.value, f"{name}: labelling")
    return timing.ratio(times["predict"], times["label"])


def logits_of(classes):
    """Return a teacher with a negligible run time, and examples for it."""
    random = np.random.default_rng(0)
    teacher = keras.Sequential([keras.Input((16,)), keras.layers.Dense(classes, kernel_initializer="random_normal")])
    return teacher, random.normal(size=(READ, 16)).astype("float32")


def reading(name, pair, classes, dtype):
    """Return batches shuffled, joined and read per student step, and the time of the fingerprint check per step."""
    teacher, x = logits_of(classes)
    with tempfile.TemporaryDirectory() as folder:
        label(teacher, tf.data.Dataset.from_tensor_slices(x), folder, dtype=dtype, verbose=0)
        dataset = indexed(x).shuffle(READ, seed=1).batch(pair.batch)
        joined = iter(open_cache(folder).join(dataset).repeat().prefetch(tf.data.AUTOTUNE))
        plain = iter(tf.data.Dataset.from_tensor_slices(x).shuffle(READ, seed=1).batch(pair.batch).repeat())
        numbered = iter(dataset.repeat())
        functions = {
            "student": steps(compiled(pair.student()), examples(pair, pair.batch)),
            "joined": lambda: [next(joined) for _ in range(STEPS)],
            "plain": lambda: [next(plain) for _ in range(STEPS)],
            "numbered": lambda: [next(numbered) for _ in range(STEPS)],
        }
        times = timing.interleaved(functions, ROUNDS.value, f"{name}: reading {classes} logits")
    check = float(np.median((times["numbered"] - times["plain"]) / times["student"]))
    return timing.ratio(times["student"], times["joined"]), check


def size_ratio(classes, top_k, information):
    """Return the bytes on disk per byte of information."""
    teacher, x = logits_of(classes)
    with tempfile.TemporaryDirectory() as folder:
        label(teacher, tf.data.Dataset.from_tensor_slices(x), folder, dtype="float16", top_k=top_k, verbose=0)
        return sum(path.stat().st_size for path in pathlib.Path(folder).iterdir()) / (information * len(x))


def main(_):
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    results = {}
    for name, pair in PAIRS.items():
        reading_10, check_share = reading(name, pair, 10, "float32")
        reading_1000, _ = reading(name, pair, 1000, "float16")
        results[name] = {
            "labelling_ratio": labelling_ratio(name, pair),
            "reading_10": reading_10,
            "reading_1000": reading_1000,
            "check_share": check_share,
        }
    medians = timing.summary(results)
    medians["bytes_10"] = size_ratio(10, None, 10 * 2)
    medians["bytes_1000"] = size_ratio(1000, None, 1000 * 2)
    medians["bytes_top_32"] = size_ratio(1000, 32, 33 * 2 + 32 * 2)
    print(json.dumps({name: round(value, 4) for name, value in medians.items()}))


if __name__ == "__main__":
    app.run(main)
