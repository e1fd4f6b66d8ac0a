"""Benchmark of distillation with networks of common architectures, against student and teacher alone.

```
python -m tests.benchmarks.networks [--networks=resnet,lstm,vit,bert,mobilenet] [--network_rounds=7]
```

Each pair is measured in separate processes. The table has a line for each pair, the last line is JSON:

    start      `Distiller`, `compile` and first step / first step of the student and first prediction of the teacher
    cached     step with cached teacher outputs / the student's own step
    online     step with the teacher's logits / (the teacher's forward pass + the student's own step)
    keras      the same with `keras.distillation`
    evaluate   `evaluate` with `evaluate_terms=False` / `evaluate` of the student
    memory     peak memory of a process that distills / of one that runs steps of the student and the teacher's forward
               pass, both above that of a process that has imported TensorFlow
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.data.batch import with_activations
from keras_distill.losses import KLDivergence
from keras_distill.teachers import CachedTeacher
from tests.benchmarks import timing
from tests.benchmarks.pairs import CLASSES, transformer
from tests.benchmarks.step_time import compiled, forward, steps

NETWORKS = flags.DEFINE_list("networks", [], "Pairs that are measured; all by default.")
ROUNDS = flags.DEFINE_integer("network_rounds", 7, "Number of timings of each function.", lower_bound=1)
MEASURE = flags.DEFINE_string("measure", None, "Internal: what this process measures, such as 'resnet:times'.")
TERMS = [Term(KLDivergence(), weight=0.9)]


class Network(NamedTuple):
    """Pair of networks of one architecture.

    Attributes:
        teacher: Function that returns the teacher.
        student: Function that returns the student.
        shape: Shape of one input.
        batch: Batch size.
        words: Number of token ids for inputs of integers; None for inputs of floating-point numbers.
    """

    teacher: Callable
    student: Callable
    shape: tuple
    batch: int
    words: int | None = None


def resnet(name, blocks):
    """Residual network of 6 * blocks + 2 layers for 32 x 32 images."""
    inputs = keras.Input((32, 32, 3))
    x = _convolution(inputs, 16)
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = x if stride == 1 else keras.layers.Conv2D(width, 1, 2, use_bias=False)(x)
            x = _convolution(_convolution(x, width, stride), width, activation=None)
            x = keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))
    return _classifier(name, inputs, keras.layers.GlobalAveragePooling2D()(x))


def _convolution(x, width, stride=1, activation="relu"):
    x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.Activation(activation)(x) if activation else x


def lstm(name, *units):
    inputs = x = keras.Input((64, 32))
    for number, width in enumerate(units):
        x = keras.layers.LSTM(width, return_sequences=number < len(units) - 1)(x)
    return _classifier(name, inputs, x)


def bert(name, layers, width):
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30_522,
        num_layers=layers,
        num_heads=width // 64,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=128,
    )
    ids = keras.Input((128,), dtype="int32")
    zeros = keras.layers.Lambda(keras.ops.zeros_like)(ids)
    ones = keras.layers.Lambda(keras.ops.ones_like)(ids)
    pooled = backbone({"token_ids": ids, "segment_ids": zeros, "padding_mask": ones})["pooled_output"]
    return _classifier(name, ids, pooled)


def _classifier(name, inputs, features):
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(features), name=name)


def application(model):
    return model(weights=None, input_shape=(224, 224, 3), classes=CLASSES, classifier_activation=None)


PAIRS = {
    "resnet": Network(lambda: resnet("teacher", 3), lambda: resnet("student", 1), (32, 32, 3), 64),
    "lstm": Network(lambda: lstm("teacher", 256, 256), lambda: lstm("student", 64), (64, 32), 32),
    "vit": Network(lambda: transformer("teacher", 6), lambda: transformer("student", 2), (64, 128), 32),
    "bert": Network(lambda: bert("teacher", 4, 256), lambda: bert("student", 2, 128), (128,), 16, 30_522),
    "mobilenet": Network(
        lambda: application(keras.applications.ResNet50),
        lambda: application(keras.applications.MobileNetV3Small),
        (224, 224, 3),
        8,
    ),
}


def examples(pair):
    random = np.random.default_rng(0)
    shape = pair.batch, *pair.shape
    x = random.integers(1, pair.words, shape, "int32") if pair.words else random.normal(size=shape).astype("float32")
    return x, random.integers(0, CLASSES, pair.batch)


def start_ratio(pair, x, y):
    """Return the ratio of first steps; each function starts with new models, whose making is not timed."""

    def alone(student, teacher):
        compiled(student).fit(x, y, batch_size=pair.batch, verbose=0)
        tf.function(lambda inputs: teacher(inputs, training=False))(x)

    def distilled(student, teacher):
        model = Distiller(student=student, teacher=teacher, terms=TERMS)
        compiled(model).fit(x, y, batch_size=pair.batch, verbose=0)

    seconds = {alone: [], distilled: []}
    # The first run in a process starts libraries.
    for function in (alone, alone, distilled, alone, distilled, alone, distilled):
        models = pair.student(), pair.teacher()
        start = time.perf_counter()
        function(*models)
        seconds[function].append(time.perf_counter() - start)
    return float(np.median(seconds[distilled]) / np.median(seconds[alone][1:]))


def times(name):
    """Return the ratios of times of a pair."""
    pair = PAIRS[name]
    x, y = examples(pair)
    start = start_ratio(pair, x, y)
    teacher = pair.teacher()
    logits = {OUTPUT: np.asarray(teacher(x))}
    keras_losses = [keras.distillation.LogitsDistillation()]
    models = {
        "student": compiled(pair.student()),
        "cached": compiled(Distiller(student=pair.student(), teacher=CachedTeacher(logits), terms=TERMS)),
        "online": compiled(Distiller(student=pair.student(), teacher=teacher, terms=TERMS)),
        "keras": compiled(
            keras.distillation.Distiller(
                teacher=teacher, student=pair.student(), distillation_losses=keras_losses, name="keras"
            )
        ),
    }
    batches = {model: (with_activations(x, logits) if model == "cached" else x, y) for model in models}
    functions = {model: steps(models[model], batches[model]) for model in models}
    seconds = timing.interleaved(functions | {"teacher": forward(teacher, x)}, ROUNDS.value, f"{name}: steps")
    both = seconds["teacher"] + seconds["student"]
    models["online"].evaluate_terms = False
    many = np.concatenate([x] * 8), np.concatenate([y] * 8)
    evaluations = {
        model: (lambda m=models[model]: m.evaluate(*many, batch_size=pair.batch, verbose=0))
        for model in ("student", "online")
    }
    evaluated = timing.interleaved(evaluations, ROUNDS.value, f"{name}: evaluate")
    return {
        "start": start,
        "cached": timing.ratio(seconds["cached"], seconds["student"]),
        "online": timing.ratio(seconds["online"], both),
        "keras": timing.ratio(seconds["keras"], both),
        "evaluate": timing.ratio(evaluated["online"], evaluated["student"]),
    }


def peak(name, distilled):
    """Return the peak memory of this process in MB, above that before the models were made."""
    pair = PAIRS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x, y = examples(pair)
    student, teacher = pair.student(), pair.teacher()
    if distilled:
        steps(compiled(Distiller(student=student, teacher=teacher, terms=TERMS)), (x, y))()
    else:
        steps(compiled(student), (x, y))()
        forward(teacher, x)()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def in_process(measure):
    command = [sys.executable, "-m", "tests.benchmarks.networks", f"--measure={measure}"]
    process = subprocess.run(
        [*command, f"--network_rounds={ROUNDS.value}"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


def main(_):
    tf.get_logger().setLevel("ERROR")
    if MEASURE.value:
        name, what = MEASURE.value.split(":")
        print("\n" + json.dumps(times(name) if what == "times" else peak(name, what == "distilled")))
        return
    results = {}
    for name in NETWORKS.value or PAIRS:
        print(f"{name}, up to a few minutes", flush=True)
        memory = {what: in_process(f"{name}:{what}") for what in ("alone", "distilled")}
        results[name] = {
            **in_process(f"{name}:times"),
            "memory": memory["distilled"] / memory["alone"],
            "memory_mb": memory["distilled"],
        }
    timing.summary(results)
    print(json.dumps({name: {key: round(value, 3) for key, value in row.items()} for name, row in results.items()}))


if __name__ == "__main__":
    app.run(main)
