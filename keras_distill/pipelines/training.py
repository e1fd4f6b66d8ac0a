"""Functions for TFX's Trainer and Tuner, and the parts that a custom `run_fn` can reuse."""

import os

import keras
import keras_tuner
import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from keras_distill.cache import packing
from keras_distill.callbacks.backup import Backup
from keras_distill.callbacks.tensorboard import TensorBoard
from keras_distill.distribution import workers
from keras_distill.experiment.training import fit
from keras_distill.pipelines import activations
from keras_distill.pipelines.exporting import ACTIVATIONS, export
from keras_distill.pipelines.reading import Reader, read_examples, with_cardinality
from keras_distill.pipelines.saved import Signature
from keras_distill.pipelines.settings import Settings
from keras_distill.training.distiller import Distiller


def run_fn(fn_args: FnArgs) -> None:
    """Train and export the model described by the `Settings` in a Trainer's `custom_config`.

    Uses these inputs of the Trainer:

    - `examples`: with or without stored teacher activations.
    - `schema`: for examples with activations, the `labelled_schema` of a TeacherLabeller.
    - `transform_graph`: optional.
    - `hyperparameters`: optional, the best values found by a Tuner.
    - `base_model`: optional, a teacher for examples without activations. It runs on the CPU, in the input pipeline.

    Writes the SavedModel to `model`. Writes the Keras model `student.keras` and TensorBoard logs to `model_run`, and
    training checkpoints while it trains.

    Args:
        fn_args: Arguments that TFX passes.

    Raises:
        ValueError: If the examples, the Schema or the teacher do not match the settings.
    """
    inputs = TrainerInputs(fn_args)
    settings = inputs.settings
    keras.utils.set_random_seed(settings.seed)
    with inputs.strategy.scope():
        distiller = inputs.build_distiller(inputs.hyperparameters)
    run_dir = fn_args.model_run_dir
    backup = Backup(
        settings.backup_dir or os.path.join(run_dir, "backup"),
        every=settings.backup_every,
        seed=settings.seed,
        settings={**fn_args.custom_config, "hp": fn_args.hyperparameters, "examples": fn_args.train_files},
        keep=True,
    )
    fit(
        distiller,
        backup.epochs(inputs.train_dataset),
        settings.epochs,
        backup,
        inputs.eval_dataset(),
        [TensorBoard(run_dir)],
        verbose=2,
    )
    if workers.is_chief(inputs.strategy):
        distiller.student.save(os.path.join(run_dir, "student.keras"))
        export(distiller.student, inputs.reader, fn_args.serving_model_dir)
    backup.delete()


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Search the hyperparameters of the functions that the `Settings` in a Tuner's `custom_config` name.

    Uses the same inputs as `run_fn`, and KerasTuner's `RandomSearch`. To use another tuner, write a `tuner_fn` in a
    module file and pass `TrainerInputs(fn_args).build_distiller` to the tuner as the hypermodel.

    Args:
        fn_args: Arguments that TFX passes.

    Returns:
        A `TunerFnResult`.

    Raises:
        ValueError: If the examples, the Schema or the teacher do not match the settings.
    """
    inputs = TrainerInputs(fn_args)
    settings, task = inputs.settings, inputs.settings.new_task()
    tuner = keras_tuner.RandomSearch(
        inputs.build_distiller,
        objective=settings.objective or keras_tuner.Objective(task.monitor, task.mode),
        max_trials=settings.max_trials,
        seed=settings.seed,
        directory=fn_args.working_dir,
        project_name="trials",
        distribution_strategy=None if settings.strategy is None else inputs.strategy,
    )
    fit_kwargs = {
        "x": inputs.train_dataset(settings.seed),
        "validation_data": inputs.eval_dataset(),
        "epochs": settings.epochs,
        "verbose": 2,
    }
    return TunerFnResult(tuner=tuner, fit_kwargs=fit_kwargs)


class TrainerInputs:
    """Inputs of a Trainer or Tuner node: settings, datasets, hyperparameters and teacher.

    Attributes:
        settings: The `Settings`.
        reader: The `Reader` of the examples.
        strategy: The `tf.distribute.Strategy`.
        hyperparameters: The best `keras_tuner.HyperParameters` found by a Tuner, or empty ones.

    Args:
        fn_args: Arguments that TFX passes to `run_fn` or `tuner_fn`.

    Raises:
        ValueError: If the node has no settings or no schema, the number of steps is not a multiple of the number of
            epochs, the examples or the Schema do not match the settings, or a split is empty.
    """

    def __init__(self, fn_args: FnArgs):
        self.settings = settings = Settings.from_fn_args(fn_args)
        self._args = fn_args
        if fn_args.train_steps is not None and fn_args.train_steps % settings.epochs:
            raise ValueError(
                f"`train_args.num_steps` must be a multiple of the number of epochs, {settings.epochs}. Received: "
                f"{fn_args.train_steps}"
            )
        if fn_args.schema_path is None:
            raise ValueError(
                "The node has no schema. Pass schema=labeller.outputs['labelled_schema'] for the examples of a "
                "TeacherLabeller, or schema=schema_gen.outputs['schema'] for examples without teacher activations."
            )
        strategy = settings.resolve("strategy")
        self.strategy = tf.distribute.get_strategy() if strategy is None else strategy()
        # Place the teacher on the CPU, where the input pipeline runs: it takes strings, which no accelerator supports.
        with tf.device("CPU:0"):
            online = fn_args.base_model is not None and settings.terms is not None
            teacher = Signature(fn_args.base_model, ACTIVATIONS) if online else None
        self.reader = Reader(fn_args.schema_path, settings, fn_args.transform_graph_path, teacher)
        if settings.terms is not None and not self.reader.stored_taps:
            raise ValueError(
                f"The settings have terms, but the Schema '{fn_args.schema_path}' has no teacher activations. Pass "
                "examples=labeller.outputs['labelled_examples'] and schema=labeller.outputs['labelled_schema'] of a "
                "TeacherLabeller, or pass base_model=teacher.outputs['model'] to run the teacher during training."
            )
        self.reader.check(fn_args.train_files)
        self.reader.check(fn_args.eval_files)
        self._train_examples = with_cardinality(read_examples(fn_args.train_files))
        self._eval_examples = with_cardinality(read_examples(fn_args.eval_files))
        self.hyperparameters = keras_tuner.HyperParameters()
        if fn_args.hyperparameters is not None:
            self.hyperparameters = keras_tuner.HyperParameters.from_config(fn_args.hyperparameters)

    def build_distiller(self, hp: keras_tuner.HyperParameters) -> Distiller:
        """Build and compile a `Distiller` from the settings.

        Without terms, the `Distiller` trains its model on the labels alone.

        Args:
            hp: The `keras_tuner.HyperParameters` that the settings' functions receive.

        Returns:
            The compiled `Distiller`.

        Raises:
            ValueError: If `Distiller` raises it. The message names the source of the teacher's activations.
        """
        settings = self.settings
        student = settings.resolve("model")(hp)
        terms = settings.resolve("terms")
        try:
            teacher = packing.cached_teacher(self.reader.stored_taps) if terms else None
            distiller = Distiller(
                student=student,
                teacher=teacher,
                terms=terms(hp) if terms else [],
                supervised_weight=settings.supervised_weight,
            )
        except ValueError as error:
            shapes = {
                f"{activations.PREFIX}{tap}": list(stored.shape) for tap, stored in self.reader.stored_taps.items()
            }
            origin = (
                f"the base_model '{self._args.base_model}'" if self._args.base_model else f"{self._args.train_files}"
            )
            raise ValueError(f"{error} Teacher activations: {shapes}, from {origin}.") from error
        compile_model = settings.resolve("compile")
        if compile_model is None:
            task = settings.new_task()
            distiller.compile("adam", task.loss(student), metrics=task.metrics(student))
        else:
            compile_model(distiller, hp)
        return distiller

    def train_dataset(self, seed: int | tf.Tensor) -> tf.data.Dataset:
        """Return the training batches of one epoch.

        Args:
            seed: Seed of the order of the examples.
        """
        settings, steps = self.settings, self._args.train_steps
        examples = self._train_examples.shuffle(settings.shuffle_buffer, seed=seed)
        if steps is not None:
            examples = examples.repeat()
        batches = self._batches(examples)
        return batches if steps is None else batches.take(steps // settings.epochs)

    def eval_dataset(self) -> tf.data.Dataset:
        """Return the batches of the evaluation split, in a fixed order."""
        batches = self._batches(self._eval_examples)
        return batches if self._args.eval_steps is None else batches.take(self._args.eval_steps)

    def _batches(self, examples):
        batches = examples.batch(self.settings.batch_size)
        return batches.map(self.reader.element, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
