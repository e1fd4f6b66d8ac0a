"""Benchmark of one GPU: steps in bfloat16 with and without XLA, a large vocabulary, overhead and input from a cache.

```
python -m tests.benchmarks.gpu
python -m tests.benchmarks.gpu --tiny        # a smoke test on a CPU; its figures mean nothing
```

The parts run one after the other; none begins after `--budget` seconds, and those that did not run are named. Each step
The parts run one after the other; none begins after `--budget` seconds, and those that did not run are named. A step is
one of `fit` on a batch in memory, timed in turn with the others of its part. Results are printed after each part, and

    student, teacher   milliseconds of the student's own step, and of the teacher's forward pass
    cached, online     of steps with stored logits, and with the teacher's logits
    features, keras    of steps with three more terms between layers, and of `keras.distillation` with logits
    *_ratio            of such a step to the student's own (cached), or to teacher and student together (the others)
    plain, chunked     milliseconds of a loss of all logits, and of `Chunked`
    *_peak_mb          peak memory on the GPU of such a step, minus that before it
    arrays, cache      examples per second of `fit` from arrays and from a cache
"""

import json
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.cache import label, open_cache
from keras_distill.data.batch import with_activations
from keras_distill.losses import KLDivergence
from keras_distill.teachers import CachedTeacher
from tests.benchmarks import large_vocabulary, pairs, step_time, timing

TINY = flags.DEFINE_bool("tiny", False, "Run all parts with tiny models, a smoke test.")
BUDGET = flags.DEFINE_float("budget", 420.0, "Seconds after which no part begins.", lower_bound=0)
ONLY = flags.DEFINE_list("parts", None, "Names of the parts to run, such as vocabulary,input. Defaults to all.")


def convolutional_pair():
    size, widths, batch = (32, (4, 8), 4) if TINY.value else (128, (64, 128, 256, 512), 64)
    return pairs.Pair(
        lambda: pairs.convolutional("teacher", 4, *widths, size=size),
        lambda: pairs.convolutional("student", 1, *widths, size=size),
        (size, size, 3),
        batch,
        lambda: pairs.convolutional_features(len(widths) - 1 if TINY.value else 3),
        ("embedding", "embedding"),
    )


def transformer_pair():
    width, batch = (16, 4) if TINY.value else (384, 64)
    return pairs.Pair(
        lambda: pairs.transformer("teacher", 6, width, tokens=196),
        lambda: pairs.transformer("student", 3, width, tokens=196),
        (196, width),
        batch,
        pairs.transformer_features,
        ("block_2", "block_5"),
    )


def dense_pair():
    return pairs.Pair(
        lambda: pairs.dense("teacher", 256, 256, 64),
        lambda: pairs.dense("student", 64, 64),
        (784,),
        32,
        pairs.dense_features,
        ("hidden_1", "hidden_2"),
    )


def step_times(pair, jit):
    """Return the milliseconds of steps of a pair, and their ratios."""
    x, y = pairs.examples(pair, pair.batch)
    teacher = pair.teacher()
    logits = {OUTPUT: np.asarray(keras.ops.cast(teacher(x), "float32"))}
    terms = [Term(KLDivergence(), weight=0.9)]
    models = {
        "student": pair.student(),
        "cached": Distiller(student=pair.student(), teacher=CachedTeacher(logits), terms=terms),
        "online": Distiller(student=pair.student(), teacher=teacher, terms=terms),
        "features": Distiller(student=pair.student(), teacher=teacher, terms=[*terms, *pair.features()]),
        "keras": keras.distillation.Distiller(
            teacher=pair.teacher(),
            student=pair.student(),
            distillation_losses=keras.distillation.LogitsDistillation(),
        ),
    }
    functions = {}
    for name, model in models.items():
        inputs = with_activations(x, logits) if name == "cached" else x
        functions[name] = step_time.steps(step_time.compiled(model, jit), (inputs, y))
    functions["teacher"] = step_time.forward(teacher, x)
    times = timing.interleaved(functions, step_time.ROUNDS.value, f"batch {pair.batch} of {pair.shape}, XLA {jit}")
    both = times["teacher"] + times["student"]
    return {
        **{name: 1000 * float(np.median(values)) / step_time.STEPS.value for name, values in times.items()},
        "cached_ratio": timing.ratio(times["cached"], times["student"]),
        "online_ratio": timing.ratio(times["online"], both),
        "features_ratio": timing.ratio(times["features"], both),
        "keras_ratio": timing.ratio(times["keras"], both),
    }


def vocabulary():
    """Return time and memory of a step with 128,000 words, plain and chunked."""
    words, texts = (500, 2) if TINY.value else (128_000, 16)
    steps = large_vocabulary.compiled_steps(1024, xla=False, words=words, texts=texts)
    results = {}
    for path, seconds in large_vocabulary.times(steps, step_time.ROUNDS.value).items():
        results[path] = 1000 * seconds
        results[f"{path}_peak_mb"] = peak_mb(steps[path])
    return results


def peak_mb(step):
    """Return the peak memory of a step on the GPU; None without a GPU."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    tf.config.experimental.reset_memory_stats("GPU:0")
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    step()[0].numpy()
    return (tf.config.experimental.get_memory_info("GPU:0")["peak"] - before) / 1e6


def input_rates():
    """Return examples per second of an epoch of the dense student, from arrays and from a cache of logits."""
    pair, count = dense_pair(), 512 if TINY.value else 65_536
    x, y = pairs.examples(pair, count)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        label(pair.teacher(), tf.data.Dataset.from_tensor_slices((x, y)), folder, batch_size=512, verbose=0)
        stored = open_cache(folder)
        student = step_time.compiled(pair.student())
        distiller = Distiller(student=pair.student(), teacher=stored.teacher, terms=[Term(KLDivergence())])
        runs = {"arrays": (student, x), "cache": (step_time.compiled(distiller), stored.load(x))}
        for name, (model, inputs) in runs.items():
            model.fit(inputs, y, batch_size=256, verbose=0)
            start = time.perf_counter()
            model.fit(inputs, y, batch_size=256, verbose=0)
            rates[name] = count / (time.perf_counter() - start)
    return rates


PARTS = {
    "convolutional": lambda: step_times(convolutional_pair(), False),
    "convolutional, XLA": lambda: step_times(convolutional_pair(), True),
    "transformer": lambda: step_times(transformer_pair(), False),
    "transformer, XLA": lambda: step_times(transformer_pair(), True),
    "overhead": lambda: step_times(dense_pair(), False),
    "overhead, XLA": lambda: step_times(dense_pair(), True),
    "vocabulary": vocabulary,
    "input": input_rates,
}


def device():
    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0])["device_name"] if found else "CPU"


def main(_):
    tf.get_logger().setLevel("ERROR")
    if not TINY.value:
        keras.config.set_dtype_policy("mixed_bfloat16")
    start, results = time.perf_counter(), {"device": device(), "not run": []}
    for name, part in PARTS.items():
        if ONLY.value and name not in ONLY.value:
            continue
        if time.perf_counter() - start > BUDGET.value:
            results["not run"].append(name)
            continue
        keras.utils.set_random_seed(0)
        results[name] = {key: value and round(value, 3) for key, value in part().items()}
        print(f"{name}: {results[name]}", flush=True)
        keras.backend.clear_session()
    print(json.dumps(results))


if __name__ == "__main__":
    app.run(main)
