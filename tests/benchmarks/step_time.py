"""Benchmark of distillation steps against the student's own step and the teacher's forward pass.

```
python -m tests.benchmarks.step_time
```

All functions are compiled steps of `fit` on one batch in memory, timed in one process, in turn. The last line is JSON:

    cached_ratio           step with cached teacher outputs / the student's own step
    online_ratio           step with the teacher's logits / (the teacher's forward pass + the student's own step)
    online_features_ratio  the same with three terms between intermediate layers
    speedup_over_keras     10 epochs of `keras.distillation` with a feature term / ours, including labeling
    expected_speedup       (T + S) * 10 / (T + S * 10) from the teacher's forward pass and the student's own step
    jit_ratio              the student's own step with XLA / without

Each is the median over the pairs of `tests/benchmarks/pairs.py`. The table shows all pairs, with the milliseconds of a
step and the number of operations in its graph.
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
from keras_distill.losses import Hint, KLDivergence
from keras_distill.teachers import CachedTeacher
from tests.benchmarks import timing
from tests.benchmarks.pairs import PAIRS, examples

ROUNDS = flags.DEFINE_integer("rounds", 15, "Number of timings of each step.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 8, "Number of steps per timing.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 10, "Number of epochs of a complete run.", lower_bound=1)
EXAMPLES = flags.DEFINE_integer("examples", 4096, "Number of examples of a complete run.", lower_bound=1)
LOGITS = [Term(KLDivergence(), weight=0.9)]


def compiled(model, jit=False):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # SGD without momentum takes the least time, so the ratios show the overhead of distillation clearly.
    model.compile(keras.optimizers.SGD(1e-3), loss, metrics=["accuracy"], jit_compile=jit)
    return model


def steps(model, data):
    """Return a function that runs steps of `fit` on one batch, distributed by the strategy of the model."""
    dataset = tf.data.Dataset.from_tensors(data).repeat()
    iterator = iter(model.distribute_strategy.experimental_distribute_dataset(dataset))
    model.make_train_function()

    def run():
        for _ in range(STEPS.value):
            logs = model.train_function(iterator)
        np.asarray(logs["loss"])

    return run


def operations(model, data):
    """Return the number of operations in a training step, including the functions that it calls."""
    specs = keras.tree.map_structure(lambda array: tf.TensorSpec(array.shape, tf.as_dtype(array.dtype)), data)
    graph = tf.function(model.train_step).get_concrete_function(specs).graph.as_graph_def()
    return len(graph.node) + sum(len(function.node_def) for function in graph.library.function)


def forward(model, inputs):
    """Return a function that runs the same number of forward passes of a model."""
    function = tf.function(lambda x: model(x, training=False))
    inputs = tf.constant(inputs)

    def run():
        for _ in range(STEPS.value):
            outputs = function(inputs)
        outputs.numpy()

    return run


def step_ratios(name, pair):
    """Return the ratios of single steps of a pair."""
    x, y = examples(pair, pair.batch)
    teacher = pair.teacher()
    logits = {OUTPUT: teacher(x).numpy()}
    features = LOGITS + pair.features()
    models = {
        "student": compiled(pair.student()),
        "cached": compiled(Distiller(student=pair.student(), teacher=CachedTeacher(logits), terms=LOGITS)),
        "online": compiled(Distiller(student=pair.student(), teacher=teacher, terms=LOGITS)),
        "features": compiled(Distiller(student=pair.student(), teacher=teacher, terms=features)),
    }
    batches = {model: (with_activations(x, logits) if model == "cached" else x, y) for model in models}
    functions = {model: steps(models[model], batches[model]) for model in models}
    functions |= {"teacher": forward(teacher, x), "xla": steps(compiled(pair.student(), jit=True), (x, y))}
    times = timing.interleaved(functions, ROUNDS.value, f"{name}: steps")
    both = times["teacher"] + times["student"]
    t, s = (float(np.median(times[part])) for part in ("teacher", "student"))
    return {
        "cached_ratio": timing.ratio(times["cached"], times["student"]),
        "online_ratio": timing.ratio(times["online"], both),
        "online_features_ratio": timing.ratio(times["features"], both),
        "expected_speedup": (t + s) * EPOCHS.value / (t + s * EPOCHS.value),
        "jit_ratio": timing.ratio(times["xla"], times["student"]),
        "student_ms": 1000 * s / STEPS.value,
        "teacher_ms": 1000 * t / STEPS.value,
        **{f"{model}_operations": operations(models[model], batches[model]) for model in models},
    }


def keras_run(pair, x, y):
    """Train all epochs with `keras.distillation`."""
    student_layer, teacher_layer = pair.layers
    losses = [
        keras.distillation.LogitsDistillation(),
        keras.distillation.FeatureDistillation(teacher_layer_name=teacher_layer, student_layer_name=student_layer),
    ]
    model = keras.distillation.Distiller(teacher=pair.teacher(), student=pair.student(), distillation_losses=losses)
    compiled(model).fit(x, y, batch_size=pair.batch, epochs=EPOCHS.value, verbose=0)


def our_run(pair, x, y):
    """Train all epochs with keras_distill: teacher outputs are computed once, and read from disk in every epoch."""
    student_layer, teacher_layer = pair.layers
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    with tempfile.TemporaryDirectory() as folder:
        dtypes = {OUTPUT: "float32", teacher_layer: "float16"}
        label(pair.teacher(), dataset, folder, tuple(dtypes), dtypes, batch_size=pair.batch, verbose=0)
        stored = open_cache(folder)
        distiller = compiled(
            Distiller(
                student=pair.student(),
                teacher=stored.teacher,
                terms=[*LOGITS, Term(Hint(), student_layer, teacher_layer)],
            )
        )
        distiller.fit(stored.load(x), y, batch_size=pair.batch, epochs=EPOCHS.value, verbose=0)


def speedup(name, pair):
    """Return the time of a complete run with `keras.distillation` divided by ours, including labeling."""
    x, y = examples(pair, EXAMPLES.value)
    print(f"{name}: {EPOCHS.value} epochs of {EXAMPLES.value:,} examples, keras.distillation and ours, in turn twice")
    times = {keras_run: [], our_run: []}
    for _ in range(2):
        for run, seconds in times.items():
            start = time.perf_counter()
            run(pair, x, y)
            seconds.append(time.perf_counter() - start)
    return sum(times[keras_run]) / sum(times[our_run])


def main(_):
    tf.get_logger().setLevel("ERROR")
    ratios = {}
    for name, pair in PAIRS.items():
        keras.utils.set_random_seed(0)
        ratios[name] = {**step_ratios(name, pair), "speedup_over_keras": speedup(name, pair)}
        keras.backend.clear_session()
    medians = timing.summary(ratios)
    print(
        json.dumps(
            {name: round(value, 4) for name, value in medians.items() if name.endswith(("ratio", "_keras", "speedup"))}
        )
    )


if __name__ == "__main__":
    app.run(main)
