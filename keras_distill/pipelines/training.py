"""The functions that a Trainer and a Tuner call, and what a module file of one's own may make them of."""

import os

import keras
import keras_tuner
import tensorflow as tf
from tfx.components.tuner.component import TunerFnResult

from keras_distill.callbacks.backup import Backup
from keras_distill.callbacks.tensorboard import TensorBoard
from keras_distill.distribution import workers
from keras_distill.pipelines import activations
from keras_distill.pipelines.exporting import ACTIVATIONS, export
from keras_distill.pipelines.reading import Reader, counted, serialized
from keras_distill.pipelines.saved import Signature
from keras_distill.pipelines.settings import Settings
from keras_distill.training.distiller import Distiller


def run_fn(fn_args):
    """Trains what the `Settings` in a Trainer's `custom_config` say, and exports it.

    Of the Trainer's inputs it heeds `examples`, labelled or not; `schema`, which a TeacherLabeller extends;
    `transform_graph`; `hyperparameters`; and `base_model`: a teacher for examples that are not labelled, which runs
    on the processor as they are read. It writes `model`, and into `model_run` the Keras model `student.keras`, what
    TensorBoard shows, and a `Backup` while it trains.

    Raises:
        ValueError: If the examples, the Schema or the teacher do not fit the settings.
    """
    lesson = TrainerInputs(fn_args)
    settings = lesson.settings
    keras.utils.set_random_seed(settings.seed)
    with lesson.strategy.scope():
        distiller = lesson.distiller(lesson.hyperparameters)
    run = fn_args.model_run_dir
    backup = Backup(
        settings.backup or os.path.join(run, "backup"),
        every=settings.backup_every,
        seed=settings.seed,
        settings={**fn_args.custom_config, "hp": fn_args.hyperparameters, "examples": fn_args.train_files},
        keep=True,
    )
    board = TensorBoard(run)
    distiller.fit(
        backup.epochs(lesson.train),
        validation_data=lesson.eval(),
        epochs=settings.epochs,
        callbacks=[board, backup],
        verbose=2,
    )
    if workers.is_chief(lesson.strategy):
        distiller.student.save(os.path.join(run, "student.keras"))
        export(distiller.student, lesson.reader, fn_args.serving_model_dir)
    backup.delete()


def tuner_fn(fn_args):
    """Looks for the best `hp` of the functions that the `Settings` in a Tuner's `custom_config` name.

    Inputs are heeded as by `run_fn`. Trials are drawn at random; for another search, a module file's own `tuner_fn` can
    give `Lesson(fn_args).distiller` to any other tuner.

    Returns:
        A `TunerFnResult`.
    """
    lesson = TrainerInputs(fn_args)
    settings = lesson.settings
    tuner = keras_tuner.RandomSearch(
        lesson.distiller,
        objective=settings.objective,
        max_trials=settings.trials,
        seed=settings.seed,
        directory=fn_args.working_dir,
        project_name="trials",
        distribution_strategy=None if settings.strategy is None else lesson.strategy,
    )
    fit = {"x": lesson.train(settings.seed), "validation_data": lesson.eval(), "epochs": settings.epochs, "verbose": 2}
    return TunerFnResult(tuner=tuner, fit_kwargs=fit)


class TrainerInputs:
    """What a node's `FnArgs` give to train with.

    Attributes:
        settings: The `Settings`.
        reader: The `Reader` of the examples.
        strategy: The `tf.distribute.Strategy`.
        hyperparameters: The `keras_tuner.HyperParameters` that were found, or empty ones.

    Raises:
        ValueError: If the examples or the Schema do not fit the settings, or hold nothing.
    """

    def __init__(self, fn_args):
        self.settings = settings = Settings.of(fn_args)
        self._args = fn_args
        if fn_args.train_steps is not None and fn_args.train_steps % settings.epochs:
            raise ValueError(
                f"train_args.num_steps must be a multiple of the {settings.epochs} epochs. Received: "
                f"{fn_args.train_steps}"
            )
        if fn_args.schema_path is None:
            raise ValueError(
                "The node was given no schema. Pass that of a TeacherLabeller, or of a SchemaGen for examples that "
                "are not labelled."
            )
        strategy = settings.function("strategy")
        self.strategy = tf.distribute.get_strategy() if strategy is None else strategy()
        # Here, where the examples are read: no device need wait for strings.
        with tf.device("CPU:0"):
            online = fn_args.base_model is not None and settings.terms is not None
            teacher = Signature(fn_args.base_model, ACTIVATIONS) if online else None
        self.reader = Reader(fn_args.schema_path, settings, fn_args.transform_graph_path, teacher)
        if settings.terms is not None and not self.reader.stored_taps:
            raise ValueError(
                f"There are terms, but no teacher: the Schema '{fn_args.schema_path}' knows of no activations. Give "
                "the node labelled_examples and labelled_schema of a TeacherLabeller, or a base_model."
            )
        self.reader.check(fn_args.train_files)
        self.reader.check(fn_args.eval_files)
        self._train, self._eval = (counted(serialized(files)) for files in (fn_args.train_files, fn_args.eval_files))
        self.hyperparameters = keras_tuner.HyperParameters()
        if fn_args.hyperparameters is not None:
            self.hyperparameters = keras_tuner.HyperParameters.from_config(fn_args.hyperparameters)

    def distiller(self, hp):
        """A compiled `Distiller` of the settings' student and terms; without terms, of the student alone.

        Args:
            hp: The `keras_tuner.HyperParameters` to make it of.

        Raises:
            ValueError: As `Distiller`, naming where the teacher's activations are from.
        """
        settings = self.settings
        student = settings.function("student")(hp)
        terms = settings.function("terms")
        try:
            taught = activations.teacher(self.reader.stored_taps) if terms else None
            distiller = Distiller(
                student=student,
                teacher=taught,
                terms=terms(hp) if terms else [],
                supervised_weight=settings.supervised_weight,
            )
        except ValueError as error:
            kept = {f"{activations.PREFIX}{tap}": list(stored.shape) for tap, stored in self.reader.stored_taps.items()}
            origin = (
                f"the base_model '{self._args.base_model}'" if self._args.base_model else f"{self._args.train_files}"
            )
            raise ValueError(f"{error} The teacher's activations are {kept}, from {origin}.") from error
        (settings.function("compile") or _compile)(distiller, hp)
        return distiller

    def train(self, seed):
        """One epoch of training batches in an order that depends on the seed, a `tf.data.Dataset`."""
        settings, steps = self.settings, self._args.train_steps
        examples = self._train.shuffle(settings.shuffle, seed=seed)
        if steps is not None:
            examples = examples.repeat()
        batches = self._read(examples)
        return batches if steps is None else batches.take(steps // settings.epochs)

    def eval(self):
        """The validation batches."""
        batches = self._read(self._eval)
        return batches if self._args.eval_steps is None else batches.take(self._args.eval_steps)

    def _read(self, examples):
        batches = examples.batch(self.settings.batch_size)
        return batches.map(self.reader.element, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _compile(model, hp):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
