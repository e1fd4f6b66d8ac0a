"""Training a recipe's models, each once: what was trained stays in the workdir, finished or not."""

import gc
import hashlib
import json
import time

import keras

from keras_distill import OUTPUT, Backup, Distiller
from keras_distill.cache import label, open_cache
from keras_distill.distribution import workers
from keras_distill.models.taps import tap_names
from keras_distill.preflight import check
from keras_distill.report import evaluation
from recipes import common, workdir


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


def teacher(make, data, folder):
    """The teacher and how it was trained, perhaps by an earlier run."""
    names = ("teacher_epochs", "batch_size", "learning_rate", "teacher_learning_rate", "smoke", "evaluate_on")
    settings = {name: common.settings()[name] for name in names} | {"data": data.digest()}
    path = folder / "teacher.keras"
    earlier = workdir.kept(path)
    if earlier is not None and earlier.settings != settings:
        raise ValueError(
            f"{path} was trained with {earlier.settings}, not with {settings}. Choose another --workdir, or delete it."
        )

    def train(title, backup):
        keras.utils.set_random_seed(0)
        model, long = make(), epochs(common.TEACHER_EPOCHS)
        rate = common.TEACHER_LEARNING_RATE.value or common.LEARNING_RATE.value
        return model, _fit(_compiled(model, data, long, rate), data, long, title, backup)

    return once(path, settings, "teacher", data, 0, train)


def student(student, start, teacher, taught_by, lessons, seed, title, backup):
    """A trained student, and its history."""
    model, trained, long = _lesson(student, start, teacher, taught_by, lessons, seed)
    return model, _fit(trained, lessons, long, title, backup)


def found(student, start, teacher, taught_by, lessons):
    """What a check says of a student's distillation before it begins, a list of `Finding`."""
    _, distiller, _ = _lesson(student, start, teacher, taught_by, lessons, 0)
    return check(distiller, *lessons.train)


def alpha(student):
    """The weight of the labels in a student's distillation."""
    return student.settings.get("alpha", common.ALPHA.value)


def epochs(flag, student=None):
    """As many as the flag says, or the student's own setting of that name, or one of `--smoke`."""
    own = {} if student is None else student.settings
    return 1 if common.SMOKE.value else own.get(flag.name, flag.value)


def once(path, settings, title, data, seed, train):
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
    if common.writes():
        workdir.keep(path, model, how)
    backup.delete()
    return model, how


def compile(model, learning_rate, steps):
    """Compiles a model or a `Distiller` as all recipes do: with a learning rate that falls to 0 in so many steps."""
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def lessons(teacher, student, data, folder):
    """The teacher for a `Distiller`, and the data to fit it on.

    No recipe changes its examples from epoch to epoch for a student, so the teacher may say all once, before the first.
    """
    if common.TEACHER.value == "online":
        return teacher, data
    taps = sorted({tap for term in student.terms(teacher) for tap in tap_names(term.teacher)})
    dtypes = {tap: "float32" if tap == OUTPUT else "float16" for tap in taps}
    parts = {}
    for part in ("train", "test"):
        inputs, labels = getattr(data, part)
        # A folder for each choice of taps: students of one recipe may want different ones.
        where = folder / "teacher_cache" / hashlib.sha256(json.dumps(taps).encode()).hexdigest()[:8] / part
        if common.writes():
            label(teacher, inputs, where, taps, dtypes, batch_size=common.BATCH_SIZE.value)
        workers.all_gather_text(common.strategy(), "There it is.")
        stored = open_cache(where)
        parts[part] = (stored.load(inputs), labels)
    return stored.teacher, data._replace(**parts)


def _lesson(student, start, teacher, taught_by, lessons, seed):
    """A student, not trained yet; what is to be trained, itself or its `Distiller`; and the number of epochs."""
    keras.utils.set_random_seed(seed)
    model = student.model(start)
    trained = (
        model
        if taught_by is None
        else Distiller(student=model, teacher=taught_by, terms=student.terms(teacher), supervised_weight=alpha(student))
    )
    rate, long = student.settings.get("learning_rate", common.LEARNING_RATE.value), epochs(common.EPOCHS, student)
    return model, _compiled(trained, lessons, long, rate), long


def _compiled(model, data, epochs, learning_rate):
    """The model, or what trains it on several devices, ready to be fitted."""
    if common.strategy().num_replicas_in_sync > 1 and not isinstance(model, Distiller):
        # Keras' own loop has shares of the same size only, and no workers.
        model = Distiller(student=model, teacher=None, terms=[])
    compile(model, learning_rate, epochs * -(-len(data.train[1]) // common.BATCH_SIZE.value))
    return model


def _fit(model, data, epochs, title, backup):
    """Trains a model or a `Distiller`, from where a `Backup` stands, and returns the history of all epochs."""
    options = {"batch_size": common.BATCH_SIZE.value, "epochs": epochs, "validation_data": data.test, "verbose": 0}
    return model.fit(*data.train, **options, callbacks=[EpochBar(title), backup]).history


def _judge(model, data, seed, history):
    """The `Run` of a trained model."""
    inputs, labels = data.test
    return evaluation.evaluate_predictions(
        model.predict(inputs, batch_size=common.BATCH_SIZE.value, verbose=0), labels, seed, history
    )
