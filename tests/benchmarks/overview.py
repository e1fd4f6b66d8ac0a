"""Benchmark of single parts, each beside its floor or a plain implementation.

```
python -m tests.benchmarks.overview [--only=step,label] [--overview_rounds=9]
```

All functions of a part are timed in one process, in turn. The table has a line for each figure; the last line is JSON:

    step       microseconds of a step of `fit` over those of the baseline, for a tiny dense pair with an online
               teacher, with 1 and 16 steps per execution; the same of `keras.distillation`; operations of the graphs
    label      microseconds per example of `label`, of comparing a finished cache and of `predict`, for a small teacher
    engine     time per example of `predict` and of `label` by Keras / that of `label` by ONNX Runtime, without the time
               for the first batch, for a dense and a convolutional teacher; seconds that the export takes
    read       microseconds per example of an epoch over plain slices and `indexed` arrays, and of `TeacherCache.load`
    losses     `SimilarityPreserving` and `CosineSimilarity` with gradient / their formulas and TensorFlow's gradient
    evaluate   `evaluate` with `evaluate_terms=False` and with the teacher / that of the student
    chunked    `Chunked(KLDivergence())` / `KLDivergence` of all logits, in time
    scale      exponents: time ~ size^exponent of a step over the batch, of `Chunked` over words and tokens, and of
               `label` over examples; operations and microseconds that one more term adds to a step
    growth     microseconds and bytes per example of a cache, and MiB of memory that grow with it; exponents; minutes
    construct  Distiller and first step for ResNet50 -> MobileNetV3 at 224 pixels / first step of the student and first
               prediction of the teacher
"""

import json
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill import Distiller, Term
from keras_distill.cache import indexed, label, open_cache
from keras_distill.losses import CosineSimilarity, KLDivergence, SimilarityPreserving
from tests.benchmarks import growth, large_vocabulary, scaling, step_time, timing
from tests.benchmarks.step_time import compiled, operations

ROUNDS = flags.DEFINE_integer("overview_rounds", 9, "Number of timings of each function.", lower_bound=1)
ONLY = flags.DEFINE_list("only", [], "Parts that are measured; by default all but growth.")
COUNTS = flags.DEFINE_list("counts", ["100000", "1000000", "10000000"], "Sizes of the caches of the part growth.")
EXAMPLES = 20_000


def medians(functions, title):
    """Return `{name: median seconds}` of functions that are timed in turn."""
    times = timing.interleaved(functions, ROUNDS.value, title)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def dense(name, *widths):
    inputs = x = keras.Input((16,))
    for number, width in enumerate(widths):
        x = keras.layers.Dense(width, activation="relu", name=f"hidden_{number}")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(x), name=name)


def arrays(count):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 16)).astype("float32"), random.integers(0, 10, count)


def distillers(teacher):
    """Return `{name: model}` of the baseline, of a `Distiller`, and of that of Keras."""
    keras_losses = [keras.distillation.LogitsDistillation()]
    return {
        "student": dense("student", 16),
        "ours": Distiller(student=dense("student", 16), teacher=teacher, terms=[Term(KLDivergence(), weight=0.9)]),
        "keras": keras.distillation.Distiller(
            teacher=teacher, student=dense("student", 16), distillation_losses=keras_losses
        ),
    }


def step():
    teacher, data, results = dense("teacher", 32, 32), arrays(32), {}
    for executed in (1, 16):
        models = {name: compiled(model) for name, model in distillers(teacher).items()}
        for model in models.values():
            model.steps_per_execution = executed
        repeated = 256 // executed // step_time.STEPS.value
        runs = {name: step_time.steps(model, data) for name, model in models.items()}
        functions = {name: (lambda run=run, n=repeated: [run() for _ in range(n)]) for name, run in runs.items()}
        times = timing.interleaved(functions, ROUNDS.value, f"step: {executed} steps per execution")
        for name in ("ours", "keras"):
            # Differences of the same round, since other load changes from round to round.
            seconds = np.median(times[name] - times["student"]) / (repeated * step_time.STEPS.value * executed)
            results[f"{name}_us_{executed}"] = 1e6 * float(seconds)
    for name, model in models.items():
        results[f"{name}_operations"] = operations(model, data)
    return results


def labelling(count):
    """Return functions that predict, label, and compare a finished cache."""
    teacher, (x, _) = dense("teacher", 32, 32), arrays(count)
    finished = tempfile.mkdtemp()
    label(teacher, (x,), finished, verbose=0)

    def label_all():
        with tempfile.TemporaryDirectory() as folder:
            label(teacher, (x,), folder, verbose=0)

    return {
        "predict": lambda: teacher.predict(x, batch_size=128, verbose=0),
        "label": label_all,
        "finished": lambda: label(teacher, (x,), finished, verbose=0),
    }


def label_row():
    seconds = medians(labelling(EXAMPLES), "label")
    return {f"{name}_us": 1e6 * value / EXAMPLES for name, value in seconds.items()}


def wide_dense():
    """Return a dense teacher and 60,000 examples."""
    layers = [keras.layers.Dense(512, activation="relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
    return model, np.random.default_rng(0).normal(size=(60_000, 64)).astype("float32")


def convolutional():
    """Return a convolutional teacher and 2,560 images."""
    layers = []
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        layers.append(keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False))
        layers += [keras.layers.BatchNormalization(), keras.layers.ReLU()]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers, *head])
    return model, np.random.default_rng(0).normal(size=(2_560, 32, 32, 3)).astype("float32")


def engine():
    results = {}
    for name, (teacher, x) in (("dense", wide_dense()), ("conv", convolutional())):

        def label_by(engine, examples, teacher=teacher):
            with tempfile.TemporaryDirectory() as folder:
                label(teacher, (examples,), folder, engine=engine, verbose=0)

        runs = {
            "predict": lambda x, teacher=teacher: teacher.predict(x, batch_size=128, verbose=0),
            "keras": lambda x, run=label_by: run("keras", x),
            "onnx": lambda x, run=label_by: run("onnx", x),
        }
        starts = medians(
            {engine: lambda run=run, x=x: run(x[:128]) for engine, run in runs.items()}, f"engine: {name}, start"
        )
        all_of = medians({engine: lambda run=run, x=x: run(x) for engine, run in runs.items()}, f"engine: {name}")
        seconds = {engine: all_of[engine] - starts[engine] for engine in runs}
        results |= {f"{name}_{other}_ratio": seconds[other] / seconds["onnx"] for other in ("predict", "keras")}
        results[f"{name}_export_seconds"] = starts["onnx"] - starts["keras"]
    return results


def read():
    x, _ = arrays(EXAMPLES)
    folder = tempfile.mkdtemp()
    label(dense("teacher", 32), (x,), folder, verbose=0)

    def epoch(dataset):
        for _ in dataset.batch(128):
            pass

    seconds = medians(
        {
            "plain": lambda: epoch(tf.data.Dataset.from_tensor_slices(x)),
            "indexed": lambda: epoch(indexed((x,))),
            "load": lambda: open_cache(folder).load(x),
        },
        "read",
    )
    return {f"{name}_us": 1e6 * value / EXAMPLES for name, value in seconds.items()}


def with_gradient(loss, shape):
    """Return a function that computes a loss of features and its gradient."""
    student, teacher = (tf.random.stateless_normal(shape, (0, seed)) for seed in range(2))

    @tf.function
    def computed(student, teacher):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = tf.reduce_mean(loss(student, teacher))
        return tape.gradient(value, student)

    return lambda: [computed(student, teacher).numpy() for _ in range(20)]


def similarities(features):
    return tf.math.l2_normalize(tf.matmul(features, features, transpose_b=True), -1)


def losses():
    shape = 128, 1200
    formulas = {
        "similarity": lambda s, t: tf.square(similarities(s) - similarities(t)),
        "cosine": lambda s, t: 1 - tf.reduce_sum(tf.math.l2_normalize(s, -1) * tf.math.l2_normalize(t, -1), -1),
        "similarity_ours": lambda s, t: SimilarityPreserving().compare(s, t, None),
        "cosine_ours": lambda s, t: CosineSimilarity().compare(s, t, large_vocabulary.Batch(None)),
    }
    seconds = medians({name: with_gradient(loss, shape) for name, loss in formulas.items()}, "losses")
    return {f"{name}_ratio": seconds[f"{name}_ours"] / seconds[name] for name in ("similarity", "cosine")}


def evaluate():
    x, y = arrays(EXAMPLES)
    student, teacher = dense("student", 16), dense("teacher", 512, 512)
    models = {"student": compiled(student)}
    for name, terms in (("without_terms", False), ("with_terms", True)):
        models[name] = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        models[name].compile("sgd", loss, metrics=["accuracy"], evaluate_terms=terms)
    seconds = medians(
        {name: (lambda m=model: m.evaluate(x, y, batch_size=256, verbose=0)) for name, model in models.items()},
        "evaluate",
    )
    return {f"{name}_ratio": seconds[name] / seconds["student"] for name in ("without_terms", "with_terms")}


def chunked_seconds(words, texts):
    return large_vocabulary.times(large_vocabulary.compiled_steps(64, False, words, texts), ROUNDS.value)


def chunked():
    seconds = chunked_seconds(32_000, 8)
    return {"time_ratio": seconds["chunked"] / seconds["plain"], "seconds": seconds["chunked"]}


def scale():
    return scaling.figures(dense, arrays, labelling, medians, ROUNDS.value)


def construct():
    """Time each part once, because every call traces the models."""
    options = {"weights": None, "input_shape": (224, 224, 3), "classes": 100, "classifier_activation": None}
    x, y = np.zeros((2, 224, 224, 3), "float32"), np.zeros(2, "int64")

    def seconds(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def models():
        return keras.applications.MobileNetV3Small(**options), keras.applications.ResNet50(**options)

    def alone(student, teacher):
        compiled(student).fit(x, y, verbose=0)
        tf.function(lambda inputs: teacher(inputs, training=False))(x)

    def distilled(student, teacher):
        compiled(Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])).fit(x, y, verbose=0)

    # The first run in a process starts libraries.
    alone(*models())
    pairs = [models() for _ in range(6)]
    ratios = [seconds(lambda: distilled(*pairs[i])) / seconds(lambda: alone(*pairs[i + 1])) for i in (0, 2, 4)]  # noqa: B023
    return {"ratio": float(np.median(ratios))}


PARTS = {
    "step": step,
    "label": label_row,
    "engine": engine,
    "read": read,
    "losses": losses,
    "evaluate": evaluate,
    "chunked": chunked,
    "scale": scale,
    "construct": construct,
    "growth": lambda: growth.figures(tuple(map(int, COUNTS.value))),
}


def main(_):
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    chosen = ONLY.value or [name for name in PARTS if name != "growth"]
    results = {name: part() for name, part in PARTS.items() if name in chosen}
    lines = [(part, name, f"{value:.2f}") for part, values in results.items() for name, value in values.items()]
    print("\n" + timing.table([("part", "figure", "value"), *lines]) + "\n")
    print(
        json.dumps(
            {part: {name: round(value, 3) for name, value in values.items()} for part, values in results.items()}
        )
    )


if __name__ == "__main__":
    app.run(main)
