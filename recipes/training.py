"""Training of a recipe's models, resumable: finished models are loaded from the workdir, unfinished ones continued."""

import gc
import hashlib
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
from absl import flags

from keras_distill import OUTPUT, Backup, Distiller
from keras_distill.cache import label, open_cache
from keras_distill.callbacks import TerminateOnNonFinite
from keras_distill.distribution import workers
from keras_distill.models.taps import tap_names
from keras_distill.preflight import Finding, check
from keras_distill.report import evaluation
from recipes import common, workdir
from recipes.data import Data


class EpochBar(keras.callbacks.Callback):
    """Progress bar over all epochs of a training.

    Args:
        title: Line above the bar.
    """

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    def on_train_begin(self, logs=None):
        print(self.title)
        self.bar = keras.utils.Progbar(self.params["epochs"], unit_name="epoch", stateful_metrics=["loss", "accuracy"])

    def on_epoch_end(self, epoch, logs=None):
        shown = {"loss": logs["loss"], "accuracy": logs["val_accuracy"]}
        self.bar.update(epoch + 1, list(shown.items()))


def teacher(
    make: Callable[[], keras.Model], data: Data, folder: pathlib.Path
) -> tuple[keras.Model, workdir.TrainingRecord]:
    """Train the teacher, or load it from the workdir.

    Args:
        make: Function that returns the teacher.
        data: A `Data`.
        folder: Path of the workdir.

    Returns:
        The model and its `TrainingRecord`.

    Raises:
        ValueError: If the workdir contains a teacher that was trained with other settings.
    """
    names = ("teacher_epochs", "batch_size", "learning_rate", "teacher_learning_rate", "smoke", "evaluate_on")
    settings = {name: common.settings()[name] for name in names} | {"data": data.digest()}
    path = folder / "teacher.keras"
    record = workdir.read_record(path)
    if record is not None and record.settings != settings:
        raise ValueError(
            f"{path} was trained with {record.settings}, not with {settings}. Choose another --workdir, or delete it."
        )

    def train(title, backup):
        keras.utils.set_random_seed(0)
        model, num_epochs = make(), epochs(common.TEACHER_EPOCHS)
        rate = common.TEACHER_LEARNING_RATE.value or common.LEARNING_RATE.value
        return model, _fit(_compiled(model, data, num_epochs, rate), data, num_epochs, title, backup)

    return train_once(path, settings, "teacher", data, 0, train)


def student(
    student: Any,
    start: keras.Model,
    teacher: keras.Model,
    distiller_teacher: Any,
    data: Data,
    seed: int,
    title: str,
    backup: Backup,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Train a student.

    Args:
        student: A `comparison.Student`.
        start: Model that `student.model` is called with.
        teacher: The trained teacher, which `student.terms` is called with.
        distiller_teacher: The teacher of the `Distiller`, such as a cached one; None for a baseline.
        data: A `Data`, with cached outputs if the teacher is cached.
        seed: Random seed of the initial weights and the order of the examples.
        title: Line above the progress bar.
        backup: A `Backup`.

    Returns:
        The model and its history.
    """
    model, trained, num_epochs = _compiled_student(student, start, teacher, distiller_teacher, data, seed)
    return model, _fit(trained, data, num_epochs, title, backup)


def check_student(
    student: Any, start: keras.Model, teacher: keras.Model, distiller_teacher: Any, data: Data
) -> list[Finding]:
    """Run the pre-flight check on a student's distiller.

    Args:
        student: A `comparison.Student` with terms.
        start: Model that `student.model` is called with.
        teacher: The trained teacher, which `student.terms` is called with.
        distiller_teacher: The teacher of the `Distiller`, such as a cached one.
        data: A `Data`, with cached outputs if the teacher is cached.

    Returns:
        List of `Finding`.
    """
    _, distiller, _ = _compiled_student(student, start, teacher, distiller_teacher, data, 0)
    return check(distiller, *data.train)


def alpha(student: Any) -> float:
    """Return the weight of the supervised loss in a student's distillation.

    Args:
        student: A `comparison.Student`.
    """
    return student.settings.get("alpha", common.ALPHA.value)


def epochs(flag: flags.FlagHolder, student: Any = None) -> int:
    """Return the number of epochs: the student's setting, else the flag's value; 1 with `--smoke`.

    Args:
        flag: `common.EPOCHS` or `common.TEACHER_EPOCHS`.
        student: A `comparison.Student`. Defaults to None, the value of the flag.
    """
    settings = {} if student is None else student.settings
    return 1 if common.SMOKE.value else settings.get(flag.name, flag.value)


def train_once(
    path: pathlib.Path,
    settings: dict[str, Any],
    title: str,
    data: Data,
    seed: int,
    train: Callable[[str, Backup], tuple[keras.Model, dict[str, list[float]]]],
) -> tuple[keras.Model, workdir.TrainingRecord]:
    """Train a model, or load it if an earlier run trained it with the same settings.

    Args:
        path: Path of the model, `.keras`.
        settings: `{name: value}` that determine the trained weights.
        title: Line above the progress bar.
        data: A `Data`; `data.test` is the evaluation set.
        seed: Seed, for the record.
        train: Function `train(title, backup)` that returns the trained model and its history.

    Returns:
        The model and its `TrainingRecord`.
    """
    # One checkpoint folder per choice of settings, so that an unfinished run with other settings does not conflict.
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    backup = Backup(path.with_name(f"{path.stem}_unfinished_{digest}"), settings=settings, keep=True)
    record = workdir.read_record(path)
    if record is not None and record.settings == settings:
        print(f"{title}: {path}, trained earlier")
        backup.delete()
        return keras.saving.load_model(path), record
    # Reference cycles keep up to gigabytes of activations of the previous training alive.
    gc.collect()
    started = time.time()
    model, history = train(title, backup)
    record = workdir.TrainingRecord(settings, _evaluate(model, data, seed, history), time.time() - started)
    if common.is_chief():
        workdir.save_trained(path, model, record)
    backup.delete()
    return model, record


def compile(model: keras.Model, learning_rate: float, steps: int) -> None:
    """Compile a model or a `Distiller` with Adam, cross-entropy and a cosine decay of the learning rate to 0.

    Args:
        model: A `keras.Model`.
        learning_rate: Initial learning rate.
        steps: Number of steps of the decay.
    """
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def with_teacher_outputs(teacher: keras.Model, student: Any, data: Data, folder: pathlib.Path) -> tuple[Any, Data]:
    """Return the teacher for a `Distiller`, and the data with its cached outputs.

    Teacher outputs are computed once, before the first epoch: no recipe augments the examples of its students. With
    `--teacher=online`, teacher and data are returned unchanged.

    Args:
        teacher: The trained teacher.
        student: A `Student` with terms.
        data: A `Data`.
        folder: Folder of the cache.
    """
    if common.TEACHER.value == "online":
        return teacher, data
    taps = sorted({tap for term in student.terms(teacher) for tap in tap_names(term.teacher)})
    dtypes = {tap: "float32" if tap == OUTPUT else "float16" for tap in taps}
    parts = {}
    for part, (inputs, labels) in (("train", data.train), ("test", data.test)):
        # One folder per choice of taps: students of a recipe may use different ones.
        cache = folder / "teacher_cache" / hashlib.sha256(json.dumps(taps).encode()).hexdigest()[:8] / part
        if common.is_chief():
            label(teacher, inputs, cache, taps, dtypes, batch_size=common.BATCH_SIZE.value)
        # A barrier: the other workers wait until the chief has written the cache.
        workers.all_gather_text(common.strategy(), "cache written")
        stored = open_cache(cache)
        parts[part] = (stored.load(inputs), labels)
    return stored.teacher, data._replace(**parts)


def _compiled_student(student, start, teacher, distiller_teacher, data, seed):
    """Return an untrained student, the compiled model to fit (the student or its `Distiller`), and the epochs."""
    keras.utils.set_random_seed(seed)
    model = trained = student.model(start)
    if distiller_teacher is not None:
        trained = Distiller(
            student=model, teacher=distiller_teacher, terms=student.terms(teacher), supervised_weight=alpha(student)
        )
    rate = student.settings.get("learning_rate", common.LEARNING_RATE.value)
    num_epochs = epochs(common.EPOCHS, student)
    return model, _compiled(trained, data, num_epochs, rate), num_epochs


def _compiled(model, data, num_epochs, learning_rate):
    """Compile the model, wrapped in a `Distiller` without terms if it is trained on several replicas."""
    if common.strategy().num_replicas_in_sync > 1 and not isinstance(model, Distiller):
        # Keras' own loop requires batches of equal size on all replicas, and does not support several workers.
        model = Distiller(student=model, teacher=None, terms=[])
    compile(model, learning_rate, num_epochs * -(-len(data.train[1]) // common.BATCH_SIZE.value))
    return model


def _fit(model, data, num_epochs, title, backup):
    """Train a model or a `Distiller`, from the latest checkpoint on; return the history of all epochs."""
    options = {"batch_size": common.BATCH_SIZE.value, "epochs": num_epochs, "validation_data": data.test, "verbose": 0}
    return model.fit(*data.train, **options, callbacks=[EpochBar(title), TerminateOnNonFinite(), backup]).history


def _evaluate(model, data, seed, history):
    """Return the `Run` of a trained model."""
    inputs, labels = data.test
    return evaluation.evaluate_predictions(
        model.predict(inputs, batch_size=common.BATCH_SIZE.value, verbose=0), labels, seed, history
    )
