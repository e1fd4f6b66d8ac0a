"""What all recipes share: flags, the comparison of students alone with students distilled, and its report."""

import contextlib
import functools
import gc
import hashlib
import json
import os
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill import OUTPUT, Backup, Distiller, workers
from keras_distill.batch import UNLABELLED
from keras_distill.cache import cached, fingerprint, label
from keras_distill.report import ModelResult, Results, Run, write_page
from keras_distill.taps import names_of
from recipes import data as data_sets
from recipes import judging, workdir

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
TEACHER_LEARNING_RATE = flags.DEFINE_float(
    "teacher_learning_rate", None, "That of the teacher, if it is another.", lower_bound=0.0
)
TEACHER = flags.DEFINE_enum(
    "teacher",
    "cached",
    ["cached", "online"],
    "Whether the teacher runs once, before the first epoch, and what it says is kept in the workdir; or in every step.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for teacher.keras, students, results.json and report.html. What was trained there with the same settings "
    "is not trained again. Defaults to runs/<recipe>.",
)
STRATEGY = flags.DEFINE_enum(
    "strategy",
    "none",
    ["none", "mirrored", "multi_worker", "tpu"],
    "Devices that share each step: one; all of this machine; all of the machines that TF_CONFIG names, which run the "
    "same command at once and see the same --workdir; or a TPU. --batch_size counts the examples of all.",
)
SMOKE = flags.DEFINE_bool("smoke", False, "One epoch, one seed, few examples: whether it runs, not what it yields.")


class Student(NamedTuple):
    """One student of a recipe; all that are compared start from the same random numbers.

    Attributes:
        name: Such as "student distilled".
        model: Makes it, untrained, given the trained teacher.
        terms: Makes the terms of its distillation, given the teacher; None if it learns from the labels alone.
        baseline: Name of the student without terms that it is compared with.
        teacher: Name of the student that teaches it, one further up in the list, as trained from the same seed; `model`
            and `terms` are then given that one. None for the recipe's teacher.
    """

    name: str
    model: Callable
    terms: Callable | None = None
    baseline: str | None = None
    teacher: str | None = None


def alone_and_distilled(name, model, terms):
    """The same network twice: trained by labels alone, and distilled.

    Args:
        name: Such as "student".
        model: Makes it, untrained.
        terms: Makes the terms of its distillation.
    """
    alone, distilled = f"{name} alone", f"{name} distilled"
    return [
        Student(alone, lambda teacher: model()),
        Student(distilled, lambda teacher: model(), lambda teacher: terms(), alone),
    ]


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
        if workers.writes(strategy()):
            recipe()
        else:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                recipe()

    app.run(main)


@functools.cache
def strategy():
    """What `--strategy` names: a `tf.distribute.Strategy`, made once, before anything else of TensorFlow runs."""
    makers = {
        "none": tf.distribute.get_strategy,
        "mirrored": tf.distribute.MirroredStrategy,
        "multi_worker": tf.distribute.MultiWorkerMirroredStrategy,
        "tpu": _tpu_strategy,
    }
    return makers[STRATEGY.value]()


def compare(title, description, data, teacher, students, keep="student distilled"):
    """Trains the teacher, then every student over the seeds; prints and writes what came out.

    Accuracy is that after the last epoch; no epoch and no seed is chosen by its result. What was trained stays in the
    workdir, and is not trained again with the same settings: a run that was killed goes on with the next epoch.

    Args:
        title: Of the report.
        description: A sentence for its reader.
        data: A `Data`.
        teacher: Makes the teacher, untrained or pretrained.
        students: List of `Student`.
        keep: Name of the student that is saved as `student.keras`, trained with the first seed.
    """
    # Outside of the strategy's scope, which would be forgotten when Keras clears its session.
    _try_out(teacher, students)
    with contextlib.nullcontext() if STRATEGY.value == "none" else strategy().scope():
        _compare(title, description, data.head(256) if SMOKE.value else data, teacher, students, keep)


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


def _compare(title, description, data, teacher, students, keep):
    seeds = [0] if SMOKE.value else list(range(SEEDS.value))
    folder = _folder()
    teacher, taught = _teacher(teacher, data, folder)
    seconds = taught.seconds
    runs = {student.name: [] for student in students}
    models = {"teacher": teacher}
    settings = {name: value for name, value in _settings().items() if name not in ("workdir", "seeds", "strategy")}
    few = _with_few_labels(data)
    trained = {}
    for student in students:
        taught_by, lessons = None, _labelled(few)
        for seed in seeds:
            by = teacher if student.teacher is None else trained[student.teacher, seed]
            own = settings | {"teacher_weights": fingerprint.of_weights(by.weights)}
            if student.terms is not None and (student.teacher is not None or seed == seeds[0]):
                said = folder if by is teacher else folder / "students" / own["teacher_weights"][:8]
                taught_by, lessons = _lessons(by, student, few, said)
            where = f"{student.name}, seed {seed}" if len(seeds) > 1 else student.name
            path = folder / "students" / f"{re.sub('[^a-z0-9]+', '_', student.name.lower())}_{seed}.keras"
            train = functools.partial(_student, student, by, taught_by, lessons, seed)
            model, how = _once(path, own, where, data, seed, train)
            if any(other.teacher == student.name for other in students):
                trained[student.name, seed] = model
            seconds += how.seconds
            runs[student.name].append(how.run)
            if seed == seeds[0]:
                models[student.name] = model
    if workers.writes(strategy()):
        workdir.save(models[keep], folder / "student.keras")
    print("measuring how long one prediction takes")
    milliseconds = judging.milliseconds(models, data)
    results = [ModelResult("teacher", "teacher", teacher.count_params(), [taught.run], milliseconds["teacher"])]
    for student in students:
        results.append(
            ModelResult(
                student.name,
                "alone" if student.terms is None else "distilled",
                models[student.name].count_params(),
                runs[student.name],
                milliseconds[student.name],
                student.baseline,
            )
        )
    outcome = Results(
        title=title,
        description=description,
        settings=_settings(),
        classes=list(data.classes),
        temperature=TEMPERATURE.value,
        command=_command(),
        seconds=seconds,
        seeds=seeds,
        models=results,
        examples=judging.doubtful(models, data),
    )
    if workers.writes(strategy()):
        outcome.save(folder / "results.json")
        write_page(outcome, folder / "report.html")
    print(f"\n{outcome.text()}\n\nWritten to {folder}: results.json, report.html, student.keras, teacher.keras")


def _try_out(teacher, students):
    """Makes everything once, untrained: what does not fit together is told before hours of training."""
    made = {None: teacher()}
    for student in students:
        if student.teacher not in made:
            before = list(made)[1:]
            raise ValueError(
                f"'{student.name}' is taught by '{student.teacher}', but the students before it are {before}."
            )
        by = made[student.teacher]
        made[student.name] = student.model(by)
        if student.terms is not None:
            Distiller(made[student.name], by, student.terms(by), ALPHA.value)
    # Layers without a name are numbered from the first again.
    keras.utils.clear_session()


def _teacher(make, data, folder):
    """The teacher and how it was trained, perhaps by an earlier run."""
    names = ("teacher_epochs", "batch_size", "learning_rate", "teacher_learning_rate", "smoke", "evaluate_on")
    settings = {name: flags.FLAGS[name].value for name in names}
    path = folder / "teacher.keras"
    earlier = workdir.kept(path)
    if earlier is not None and earlier.settings != settings:
        raise ValueError(
            f"{path} was trained with {earlier.settings}, not with {settings}. Choose another --workdir, or delete it."
        )

    def train(title, backup):
        keras.utils.set_random_seed(0)
        model = make()
        rate = TEACHER_LEARNING_RATE.value or LEARNING_RATE.value
        return model, _fit(model, data, _epochs(TEACHER_EPOCHS), rate, title, backup)

    return _once(path, settings, "teacher", data, 0, train)


def _student(student, teacher, taught_by, lessons, seed, title, backup):
    """A trained student, and its history."""
    keras.utils.set_random_seed(seed)
    model = student.model(teacher)
    trained = model if taught_by is None else Distiller(model, taught_by, student.terms(teacher), ALPHA.value)
    return model, _fit(trained, lessons, _epochs(EPOCHS), LEARNING_RATE.value, title, backup)


def _once(path, settings, title, data, seed, train):
    """A trained model and its `Kept`: what `train(title, backup)` makes, or an earlier run with the same settings."""
    # A folder for each choice of settings: a training with others does not stand in the way.
    chosen = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    backup = Backup(path.with_name(f"{path.stem}_unfinished_{chosen}"), settings=settings, keep=True)
    earlier = workdir.kept(path)
    if earlier is not None and earlier.settings == settings:
        print(f"{title}: {path}, trained earlier")
        backup.delete()
        return keras.saving.load_model(path), earlier
    # What the training before held, up to gigabytes of activations, hangs together in circles.
    gc.collect()
    started = time.time()
    model, history = train(title, backup)
    how = workdir.Kept(settings, _judge(model, data, seed, history), time.time() - started)
    if workers.writes(strategy()):
        workdir.keep(path, model, how)
    backup.delete()
    return model, how


def _with_few_labels(data):
    """The data with only the first labels left."""
    inputs, labels = data.train
    count = len(labels) if LABELS.value is None else LABELS.value
    return data._replace(train=(inputs, np.where(np.arange(len(labels)) < count, labels, UNLABELLED)))


def _labelled(data):
    """The labelled examples alone, repeated to the same number, so that an epoch has the same number of steps."""
    labels = data.train[1]
    return data._replace(train=data_sets.rows(data.train, np.resize(np.flatnonzero(labels != UNLABELLED), len(labels))))


def _lessons(teacher, student, data, folder):
    """The teacher for a `Distiller`, and the data to fit it on.

    No recipe changes its examples from epoch to epoch for a student, so the teacher may say all once, before the first.
    """
    if TEACHER.value == "online":
        return teacher, data
    taps = sorted({tap for term in student.terms(teacher) for tap in names_of(term.teacher)})
    dtypes = {tap: "float32" if tap == OUTPUT else "float16" for tap in taps}
    parts = {}
    for part in ("train", "test"):
        inputs, labels = getattr(data, part)
        # A folder for each choice of taps: students of one recipe may want different ones.
        where = folder / "teacher_cache" / hashlib.sha256(json.dumps(taps).encode()).hexdigest()[:8] / part
        if workers.writes(strategy()):
            label(teacher, inputs, where, taps, dtypes, batch_size=BATCH_SIZE.value)
        workers.said(strategy(), "There it is.")
        stored = cached(where)
        parts[part] = (stored.load(inputs), labels)
    return stored.teacher, data._replace(**parts)


def _fit(model, data, epochs, learning_rate, title, backup):
    """Trains a model or a `Distiller`, from where a `Backup` stands, and returns the history of all epochs."""
    if strategy().num_replicas_in_sync > 1 and not isinstance(model, Distiller):
        # Keras' own loop has shares of the same size only, and no workers.
        model = Distiller(model, None, [])
    steps = epochs * -(-len(data.train[1]) // BATCH_SIZE.value)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    options = {"batch_size": BATCH_SIZE.value, "epochs": epochs, "validation_data": data.test, "verbose": 0}
    return model.fit(*data.train, **options, callbacks=[EpochBar(title), backup]).history


def _judge(model, data, seed, history):
    """The `Run` of a trained model."""
    inputs, labels = data.test
    guesses = np.argmax(model.predict(inputs, batch_size=BATCH_SIZE.value, verbose=0), axis=-1)
    confusion = np.zeros((len(data.classes),) * 2, int)
    np.add.at(confusion, (labels, guesses), 1)
    errors = int(np.sum(guesses != labels))
    return Run(seed, 1 - errors / len(labels), errors, history, confusion.tolist())


def _tpu_strategy():
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _epochs(flag):
    return 1 if SMOKE.value else flag.value


def _folder():
    recipe = pathlib.Path(sys.argv[0]).stem
    folder = pathlib.Path(WORKDIR.value or f"runs/{recipe}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _command():
    recipe = pathlib.Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", f"recipes.{recipe}", *sys.argv[1:]])


def _settings():
    ours = (module for module in flags.FLAGS.flags_by_module_dict() if "recipes" in module or module == sys.argv[0])
    return {flag.name: flag.value for module in ours for flag in flags.FLAGS.flags_by_module_dict()[module]}
