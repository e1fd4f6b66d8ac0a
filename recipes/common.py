"""What all recipes share: flags, the comparison of a student alone with a student distilled, and its report."""

import contextlib
import json
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill import OUTPUT, Distiller
from keras_distill.batch import UNLABELLED
from keras_distill.report import Example, ModelResult, Results, Run, write_page
from keras_distill.teachers import CachedTeacher, with_activations
from recipes import data as data_sets

TEMPERATURE = flags.DEFINE_float("temperature", 4.0, "Temperature of the softened logits.", lower_bound=1e-3)
ALPHA = flags.DEFINE_float(
    "alpha", 0.1, "Weight of the labels; the softened logits get 1 - alpha.", lower_bound=0.0, upper_bound=0.999
)
EPOCHS = flags.DEFINE_integer("epochs", 30, "Epochs of each student.", lower_bound=1)
TEACHER_EPOCHS = flags.DEFINE_integer("teacher_epochs", 30, "Epochs of the teacher.", lower_bound=1)
SEEDS = flags.DEFINE_integer("seeds", 3, "Trains every student with the seeds 0 to this number, less 1.", lower_bound=1)
LABELS = flags.DEFINE_integer(
    "labels",
    None,
    "How many training pictures have a label that the students may see. The teacher knows all labels, and tells "
    "the distilled student about all pictures. Defaults to all.",
    lower_bound=1,
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples a step.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's first learning rate; it falls along a cosine to 0.")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for teacher.keras (reused if it is there), student.keras, results.json and report.html. "
    "Defaults to runs/<recipe>.",
)
SMOKE = flags.DEFINE_bool("smoke", False, "One epoch, one seed, few examples: whether it runs, not what it yields.")


class Student(NamedTuple):
    """One student of a recipe, which is trained alone and distilled, from the same first weights.

    Attributes:
        name: Such as "student".
        model: Makes it, untrained.
        terms: Makes the terms of its distillation.
        temperature: Of its logit term, for the report.
    """

    name: str
    model: Callable
    terms: Callable
    temperature: float


def defaults(**values):
    """The recipe's own defaults of the flags above."""
    for name, value in values.items():
        flags.FLAGS.set_default(name, value)


def run(recipe):
    """Parses the flags and calls `recipe()`; `--help` lists all of the recipes' flags."""
    for module in (__name__, data_sets.__name__):
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Not a flag: {argv[1:]}. Try --help.")
        # TensorFlow warns of the functions that each new model needs.
        tf.get_logger().setLevel("ERROR")
        recipe()

    app.run(main)


def compare(title, description, data, teacher, students):
    """Trains the teacher, then every student alone and distilled, over the seeds; prints and writes what came out.

    The teacher is trained once and reused from the workdir. `student.keras` is the first student, distilled with the
    first seed. Accuracy is that after the last epoch; no epoch and no seed is chosen by its result.

    Args:
        title: Of the report.
        description: A sentence for its reader.
        data: A `Data`.
        teacher: Makes the teacher, untrained.
        students: List of `Student`.
    """
    started = time.time()
    data = data.head(256) if SMOKE.value else data
    seeds = [0] if SMOKE.value else list(range(SEEDS.value))
    workdir = _workdir()
    teacher, taught = _teacher(teacher, data, workdir)
    results = [ModelResult("teacher", "teacher", teacher.count_params(), [taught], _milliseconds(teacher, data))]
    shown = _doubtful(teacher, data)
    logits = {"teacher": _logits(teacher, data, shown)}
    few = _with_few_labels(data)
    for student in students:
        taught_by, lessons = _lessons(teacher, student.terms(), few)
        pairs = {f"{student.name} alone": [], f"{student.name} distilled": []}
        for seed in seeds:
            for name, runs in pairs.items():
                keras.utils.set_random_seed(seed)
                model = student.model()
                alone = name.endswith("alone")
                trained = model if alone else Distiller(model, taught_by, student.terms(), ALPHA.value)
                where = f"{name}, seed {seed}" if len(seeds) > 1 else name
                history = _fit(trained, _labelled(few) if alone else lessons, _epochs(EPOCHS), where)
                runs.append(_judge(model, data, seed, history))
                if seed == seeds[0]:
                    logits[name] = _logits(model, data, shown)
                    if not alone and student is students[0]:
                        _save(model, workdir / "student.keras")
        for (name, runs), role in zip(pairs.items(), ("alone", "distilled")):
            baseline = None if role == "alone" else f"{student.name} alone"
            parameters, milliseconds = model.count_params(), _milliseconds(model, data)
            results.append(ModelResult(name, role, parameters, runs, milliseconds, baseline))
    outcome = Results(
        title=title,
        description=description,
        settings=_settings(),
        classes=list(data.classes),
        temperature=students[0].temperature,
        command=_command(),
        seconds=time.time() - started,
        seeds=seeds,
        models=results,
        examples=[
            Example(
                image=np.uint8(np.squeeze(data.test[0][index], -1) * 255),
                label=int(data.test[1][index]),
                logits={name: rows[position] for name, rows in logits.items()},
            )
            for position, index in enumerate(shown)
        ],
    )
    outcome.save(workdir / "results.json")
    write_page(outcome, workdir / "report.html")
    print(f"\n{outcome.text()}\n\nWritten to {workdir}: results.json, report.html, student.keras, teacher.keras")


class EpochBar(keras.callbacks.Callback):
    """One progress bar for a whole training, an epoch a tick."""

    def __init__(self, title):
        super().__init__()
        self.title = title

    def on_train_begin(self, logs=None):
        print(self.title)
        self.bar = keras.utils.Progbar(self.params["epochs"], unit_name="epoch", stateful_metrics=["loss", "accuracy"])

    def on_epoch_end(self, epoch, logs=None):
        shown = {"loss": logs["loss"], "accuracy": logs["val_accuracy"]}
        self.bar.update(epoch + 1, list(shown.items()))


def _teacher(make, data, workdir):
    """The teacher and its `Run`, from the workdir if one was trained there with the same settings."""
    model_path, run_path = workdir / "teacher.keras", workdir / "teacher.json"
    trained_with = {
        name: flags.FLAGS[name].value
        for name in ("teacher_epochs", "batch_size", "learning_rate", "smoke", "evaluate_on")
    }
    if model_path.exists() and run_path.exists():
        stored = json.loads(run_path.read_text())
        if stored["settings"] != trained_with:
            raise ValueError(
                f"{model_path} was trained with {stored['settings']}, not with {trained_with}. "
                "Choose another --workdir, or delete it."
            )
        print(f"teacher: {model_path}, trained earlier")
        return keras.saving.load_model(model_path), Run(**stored["run"])
    keras.utils.set_random_seed(0)
    model = make()
    history = _fit(model, data, _epochs(TEACHER_EPOCHS), "teacher")
    trained = _judge(model, data, 0, history)
    _save(model, model_path)
    run_path.write_text(json.dumps({"settings": trained_with, "run": vars(trained)}))
    return model, trained


def _with_few_labels(data):
    """The data with only the first labels left."""
    images, labels = data.train
    count = len(labels) if LABELS.value is None else LABELS.value
    return data._replace(train=(images, np.where(np.arange(len(labels)) < count, labels, UNLABELLED)))


def _labelled(data):
    """The labelled examples alone, repeated to the same number, so that an epoch has the same number of steps."""
    images, labels = data.train
    seen = np.resize(np.flatnonzero(labels != UNLABELLED), len(labels))
    return data._replace(train=(images[seen], labels[seen]))


def _lessons(teacher, terms, data):
    """The teacher for a `Distiller`, and the data to fit it on.

    No recipe changes its pictures from epoch to epoch for a student. So if only the teacher's logits are asked for, it
    says them once, before the first epoch; maps of features would not fit into memory.
    """
    if any(term.teacher != OUTPUT for term in terms):
        return teacher, data
    parts = []
    for images, labels in (data.train, data.test):
        activations = {OUTPUT: teacher.predict(images, batch_size=BATCH_SIZE.value, verbose=0)}
        parts.append((with_activations(images, activations), labels))
    return CachedTeacher(activations), data._replace(train=parts[0], test=parts[1])


def _fit(model, data, epochs, title):
    """Trains a model or a `Distiller` and returns its history."""
    steps = epochs * -(-len(data.train[1]) // BATCH_SIZE.value)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE.value, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    options = {"batch_size": BATCH_SIZE.value, "epochs": epochs, "validation_data": data.test, "verbose": 0}
    return model.fit(*data.train, **options, callbacks=[EpochBar(title)]).history


def _judge(model, data, seed, history):
    """The `Run` of a trained model."""
    images, labels = data.test
    guesses = np.argmax(model.predict(images, batch_size=BATCH_SIZE.value, verbose=0), axis=-1)
    confusion = np.zeros((len(data.classes),) * 2, int)
    np.add.at(confusion, (labels, guesses), 1)
    errors = int(np.sum(guesses != labels))
    return Run(seed, 1 - errors / len(labels), errors, history, confusion.tolist())


def _doubtful(teacher, data):
    """Up to six test examples, of different classes, that the teacher gets right with the least confidence."""
    images, labels = data.test
    probabilities = keras.ops.softmax(teacher.predict(images, batch_size=BATCH_SIZE.value, verbose=0)).numpy()
    order = np.argsort(probabilities.max(axis=-1))
    right = [index for index in order if probabilities[index].argmax() == labels[index]]
    return [index for index, first in _firsts(right, labels) if first][:6]


def _firsts(indices, labels):
    seen = set()
    for index in indices:
        yield index, labels[index] not in seen
        seen.add(labels[index])


def _logits(model, data, indices):
    return model.predict(data.test[0][indices], verbose=0) if indices else []


def _milliseconds(model, data, batch=128, repeats=30):
    """Median time of one prediction, in batches of 128, per example."""
    images = tf.constant(np.resize(data.test[0], (batch, *data.test[0].shape[1:])))
    predict = tf.function(lambda x: model(x, training=False))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        predict(images).numpy()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times)) / batch


def _epochs(flag):
    return 1 if SMOKE.value else flag.value


def _workdir():
    recipe = pathlib.Path(sys.argv[0]).stem
    workdir = pathlib.Path(WORKDIR.value or f"runs/{recipe}")
    workdir.mkdir(parents=True, exist_ok=True)
    return workdir


def _save(model, path):
    # Under another name first: a run that dies while it writes leaves no broken file behind.
    unfinished = path.with_name(f"unfinished_{path.name}")
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(unfinished.unlink, missing_ok=True)
        model.save(unfinished)
        os.replace(unfinished, path)


def _command():
    recipe = pathlib.Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", f"recipes.{recipe}", *sys.argv[1:]])


def _settings():
    ours = (module for module in flags.FLAGS.flags_by_module_dict() if "recipes" in module or module == sys.argv[0])
    return {flag.name: flag.value for module in ours for flag in flags.FLAGS.flags_by_module_dict()[module]}
