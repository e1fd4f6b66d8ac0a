"""What a step of distillation costs, beside the student's own step and the teacher's forward pass.

```
python -m tests.benchmarks.step_time
```

All are `fit`'s own compiled steps on one batch that is in memory, in one process, taking turns. The last line is JSON:

    cached_ratio           a step whose teacher has spoken / the student's own
    online_ratio           a step with the teacher's logits / (the teacher's forward pass + the student's own step)
    online_features_ratio  the same with three terms between inner layers
    speedup_over_keras     10 epochs of `keras.distillation` with a feature term / ours, labelling included
    expected_speedup       (T + S) * 10 / (T + S * 10) from the teacher's forward pass and the student's own step
    jit_ratio              the student's own step with XLA / without

Each is the median over the pairs of `tests/benchmarks/pairs.py`, all of which the table shows, with the milliseconds of
a step and the operations in its graph.
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

ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each step is timed.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 8, "Steps of one timing.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 10, "Epochs of a whole run.", lower_bound=1)
EXAMPLES = flags.DEFINE_integer("examples", 4096, "Examples of a whole run.", lower_bound=1)
LOGITS = [Term(KLDivergence(), weight=0.9)]


def compiled(model, jit=False):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Without moments the optimizer's share is the least, and the ratios are the strictest.
    model.compile(keras.optimizers.SGD(1e-3), loss, metrics=["accuracy"], jit_compile=jit)
    return model


def steps(model, data):
    """A function that makes some steps of `fit` on one batch, dealt out to the devices that the model was made for."""
    dataset = tf.data.Dataset.from_tensors(data).repeat()
    iterator = iter(model.distribute_strategy.experimental_distribute_dataset(dataset))
    model.make_train_function()

    def run():
        for _ in range(STEPS.value):
            logs = model.train_function(iterator)
        np.asarray(logs["loss"])

    return run


def operations(model, data):
    """How many operations a training step has, those of the functions that it calls included."""
    specs = keras.tree.map_structure(lambda array: tf.TensorSpec(array.shape, tf.as_dtype(array.dtype)), data)
    graph = tf.function(model.train_step).get_concrete_function(specs).graph.as_graph_def()
    return len(graph.node) + sum(len(function.node_def) for function in graph.library.function)


def forward(model, inputs):
    """A function that calls a model as often."""
    function = tf.function(lambda x: model(x, training=False))
    inputs = tf.constant(inputs)

    def run():
        for _ in range(STEPS.value):
            outputs = function(inputs)
        outputs.numpy()

    return run


def step_ratios(name, pair):
    """The ratios of single steps of a pair."""
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
    """All epochs with `keras.distillation`."""
    ours, theirs = pair.layers
    losses = [
        keras.distillation.LogitsDistillation(),
        keras.distillation.FeatureDistillation(teacher_layer_name=theirs, student_layer_name=ours),
    ]
    model = keras.distillation.Distiller(student=pair.teacher(), teacher=pair.student(), terms=losses)
    compiled(model).fit(x, y, batch_size=pair.batch, epochs=EPOCHS.value, verbose=0)


def our_run(pair, x, y):
    """The same here: the teacher speaks once, onto the disk, and is read from there in every epoch."""
    ours, theirs = pair.layers
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    with tempfile.TemporaryDirectory() as folder:
        dtypes = {OUTPUT: "float32", theirs: "float16"}
        label(pair.teacher(), dataset, folder, tuple(dtypes), dtypes, batch_size=pair.batch, verbose=0)
        stored = open_cache(folder)
        distiller = compiled(
            Distiller(student=pair.student(), teacher=stored.teacher, terms=[*LOGITS, Term(Hint(), ours, theirs)])
        )
        distiller.fit(stored.load(x), y, batch_size=pair.batch, epochs=EPOCHS.value, verbose=0)


def speedup(name, pair):
    """How much sooner the whole run is over, labelling included."""
    x, y = examples(pair, EXAMPLES.value)
    print(f"{name}: {EPOCHS.value} epochs of {EXAMPLES.value:,} examples, keras.distillation and ours, in turn twice")
    taken = {keras_run: [], our_run: []}
    for _ in range(2):
        for run, seconds in taken.items():
            start = time.perf_counter()
            run(pair, x, y)
            seconds.append(time.perf_counter() - start)
    return sum(taken[keras_run]) / sum(taken[our_run])


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
