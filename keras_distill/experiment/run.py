"""Experiment: train a teacher and several students over seeds, and compare them."""

import contextlib
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.compression.exporting import check_formats
from keras_distill.distribution import workers
from keras_distill.experiment import reporting
from keras_distill.experiment.arm import Arm
from keras_distill.experiment.data import Data
from keras_distill.experiment.execution import Execution
from keras_distill.experiment.plan import check_arms, dry_run, ordered
from keras_distill.experiment.results import Results
from keras_distill.experiment.task import Task
from keras_distill.experiment.tuned import TunedArm
from keras_distill.utils import locks
from keras_distill.utils.arguments import check_integer


class Experiment:
    """Comparison of students that are trained with and without a teacher, over several seeds.

    Every arm is trained with every seed. The arms of a seed start from the same random numbers and see the examples in
    the same order, so that they can be compared in pairs. The score is measured on the test split after training; no
    epoch and no seed is selected by it.

    Args:
        task: The `Task`, such as `Classification()`.
        data: The `Data`.
        teacher: A trained `keras.Model`; another teacher, as for `Distiller`; or an `Arm` without terms, which is
            trained first, with seed 0. None if no arm has terms.
        arms: List of `Arm` and `TunedArm`. Arms without terms are trained first.
        seeds: Number of seeds, >= 1, or a list of them. 3 to 10 is typical. Defaults to 3.
        labels: Number of training examples whose labels the students may use. A teacher that is trained here sees all
            labels, and arms with terms see the teacher's outputs for all examples. Defaults to None: all.
        title: Title of the report. Defaults to "Distillation".
        description: Sentence under the title. Defaults to "".
        cache: Whether to compute the teacher's outputs once and store them in the folder. False runs the teacher in
            every step. A path is the folder of a cache of the training split, as written by `label`; it is written if
            it does not exist. Defaults to True.
        strict: Whether to raise an error if the pre-flight check has findings, instead of a warning. Defaults to
            False.
        files: `{name of a model: [format]}`, as for `compression.export`: files to export, profile and report. Defaults
            to none.
        keep: Name of the arm whose model of the first seed is saved as `student.keras`. Defaults to None: the last arm
            with terms, or the last one.
        temperature: Softmax temperature at which the report shows soft targets, > 0. Defaults to 1.0.
        settings: `{name: JSON value}` for the report. Defaults to none: the settings of the arms.
        command: Command that reproduces the run, for the report. Defaults to None: that of this process.
        strategy: `tf.distribute.Strategy`. Defaults to None: one device.
        backup_every: Number of steps between two checkpoints within an epoch. Defaults to None: after each epoch only.
        callbacks: Function `callbacks(title, seed)` that returns further Keras callbacks for one training, such as
            `TensorBoard`. The title is the name of the arm, with several seeds also the number of the seed. Defaults to
            None.

    Raises:
        ValueError: If names are not unique or unknown, an arm with terms has no teacher, or early stopping has no
            validation split.

    Example:

    >>> from keras_distill.experiment import Arm, Classification, Data, Experiment
    >>> def new_student():
    ...     return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    >>> arms = [
    ...     Arm("baseline", new_student, epochs=1),
    ...     Arm("distilled", new_student, [Term(KLDivergence(), weight=0.9)], supervised_weight=0.1, epochs=1),
    ... ]
    >>> experiment = Experiment(Classification(), Data((x, y), test=(x, y)), teacher, arms, seeds=2)

    `experiment.run("runs/first")` returns the `Results`, prints them and writes them to the folder.
    """

    def __init__(
        self,
        task: Task,
        data: Data,
        teacher: Any,
        arms: Sequence[Arm | TunedArm],
        seeds: int | Sequence[int] = 3,
        *,
        labels: int | None = None,
        title: str = "Distillation",
        description: str = "",
        cache: bool | str | os.PathLike = True,
        strict: bool = False,
        files: Mapping[str, Sequence[str]] | None = None,
        keep: str | None = None,
        temperature: float = 1.0,
        settings: Mapping[str, Any] | None = None,
        command: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
        backup_every: int | None = None,
        callbacks: Callable[[str, int], list[keras.callbacks.Callback]] | None = None,
    ):
        self.task, self.data, self.teacher = task, data, teacher
        self.tuned = {arm.name: arm for arm in arms if isinstance(arm, TunedArm)}
        self.arms = ordered([arm.arm() if isinstance(arm, TunedArm) else arm for arm in arms])
        self.seeds = list(range(check_integer(seeds, "seeds"))) if isinstance(seeds, int) else list(seeds)
        self.labels = check_integer(labels, "labels", optional=True)
        self.title, self.description, self.temperature = title, description, temperature
        self.cache, self.strict, self.settings = cache, strict, settings
        self.files = {name: check_formats(formats, "files") for name, formats in (files or {}).items()}
        self.keep = keep or next((arm.name for arm in reversed(self.arms) if arm.distilled), self.arms[-1].name)
        self.command = shlex.join(sys.argv) if command is None else command
        self.strategy = tf.distribute.get_strategy() if strategy is None else strategy
        self.distributed = strategy is not None
        self.backup_every, self.callbacks = backup_every, callbacks
        check_arms(self)

    def run(self, folder: str | pathlib.Path) -> Results:
        """Train, or resume, and return the `Results`.

        Trained models stay in the folder and are reused by experiments with the same settings. An interrupted run
        resumes at its latest checkpoint. Writes `results.json`, `report.html` (if jinja2 and matplotlib are installed),
        `student.keras`, and `teacher.keras` if the teacher is trained here.

        Args:
            folder: Folder of all files. One process at a time may use it.

        Raises:
            ValueError: If models, data and terms do not fit together. Nothing is trained then.
            NonFiniteError: If a loss is NaN or infinite.
            RuntimeError: If another process runs an experiment in the folder, or the pre-flight check has findings and
                `strict` is set.
        """
        folder = pathlib.Path(folder)
        with _without_retracing_warnings():
            dry_run(self)
            return self._run(folder)

    def _run(self, folder):
        with _locked(folder) if self.is_chief else contextlib.nullcontext():
            with self.strategy.scope() if self.distributed else contextlib.nullcontext():
                execution = Execution(self, folder)
                execution.train()
                results = reporting.results(execution)
            if self.is_chief:
                reporting.write(results, execution)
        return results

    @property
    def is_chief(self) -> bool:
        """True in the process that writes the files."""
        return workers.is_chief(self.strategy)

    def num_steps(self, arm: Arm) -> int:
        """Return the number of training steps of an arm.

        Args:
            arm: One of the arms.
        """
        return arm.epochs * (arm.steps_per_epoch or -(-len(self.data.train) // arm.batch_size))


@contextlib.contextmanager
def _without_retracing_warnings():
    """Hide TensorFlow's advice against retracing: every model of an experiment is traced once."""
    logger = tf.get_logger()

    def allowed(record):
        return "triggered tf.function retracing" not in record.getMessage()

    logger.addFilter(allowed)
    try:
        yield
    finally:
        logger.removeFilter(allowed)


@contextlib.contextmanager
def _locked(folder):
    """Lock the folder for this process, and remove it again if nothing was written."""
    try:
        with locks.locked(folder / "experiment.lock"):
            yield
    except locks.LockedError as error:
        raise RuntimeError(
            f"Another process is writing to '{folder}': {error.holder}. Wait until it has ended, or choose another "
            "folder."
        ) from None
    finally:
        for path in (folder / "models", folder):
            with contextlib.suppress(OSError):
                path.rmdir()
