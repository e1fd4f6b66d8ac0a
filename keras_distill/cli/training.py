"""Fault-tolerant training of the distilled student and the baseline."""

import argparse
import contextlib
import pathlib
import shutil
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import keras

from keras_distill.callbacks import Backup, NonFiniteError, TerminateOnNonFinite
from keras_distill.saving import checkpoints

from .common import CommandError, count_noun

if TYPE_CHECKING:
    from .data import Data
    from .job import DistillationJob

# Roles and names of the trained models in results, and directories of their checkpoints.
DISTILLED, BASELINE = NAMES = ("distilled", "baseline")
# Directory of the cache for the examples of a validation dataset.
VALIDATION = "teacher_validation"


class Trained(NamedTuple):
    """Result of one training.

    Attributes:
        model: The trained student.
        history: `{name: [value per epoch]}`.
    """

    model: keras.Model
    history: dict[str, list[float]]


class Training:
    """Training of the distilled student and, with `--baseline`, of the baseline.

    Attributes:
        directory: Where checkpoints are, until the results are written.

    Args:
        options: Options of the command.
        job: Models and terms.
        data: The examples, and the teacher or its cache.
        settings: `{name: value}` of all that the trained weights depend on. Checkpoints of other settings raise an
            error.
    """

    def __init__(self, options: argparse.Namespace, job: "DistillationJob", data: "Data", settings: dict[str, Any]):
        self.directory = pathlib.Path(options.out) / "unfinished"
        self._options = options
        self._job = job
        self._data = data
        self._settings = settings

    def has_checkpoints(self) -> bool:
        """Return whether an earlier process has started the training and not finished it."""
        return any((self.directory / name).exists() for name in NAMES)

    def delete_checkpoints(self) -> None:
        """Delete all checkpoints and the cache of the validation dataset."""
        for name in NAMES:
            checkpoints.remove(self.directory / name)
        shutil.rmtree(self.directory / VALIDATION, ignore_errors=True)
        # The directory may not exist, or contain files of others.
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def run(self) -> dict[str, Trained]:
        """Train, or resume from checkpoints, and return "distilled" and, with `--baseline`, "baseline"."""
        return {name: self._train(name) for name in (NAMES if self._options.baseline else (DISTILLED,))}

    def _train(self, name: str) -> Trained:
        options, data = self._options, self._data
        with_teacher = name == DISTILLED
        steps = -(-data.num_training // options.batch_size)
        make_distiller = self._job.distiller if with_teacher else self._job.baseline
        distiller = make_distiller(data, options.epochs * steps)
        backup = Backup(
            self.directory / name, every=options.backup_every, seed=options.seed, settings=self._settings, keep=True
        )
        size = f"{count_noun(options.epochs, 'epoch')} of {count_noun(steps, 'step')}"
        print(f"Training '{name}': {size}, {data.num_training:,} examples", flush=True)
        try:
            history = distiller.fit(
                backup.epochs(lambda seed: data.batches(seed, with_teacher)),
                epochs=options.epochs,
                validation_data=data.validation_batches(with_teacher),
                callbacks=[TerminateOnNonFinite(options.backup_every), backup],
                # `Data.batches` shuffles, with the seed that `Backup.epochs` passes.
                shuffle=False,
                # A progress bar would fill a log file with control characters.
                verbose=1 if sys.stdout.isatty() else 2,
            ).history
        except NonFiniteError as error:
            # Rerun with the same options, the training would end in the same step again.
            backup.delete()
            with contextlib.suppress(OSError):
                self.directory.rmdir()
            raise CommandError(f"training of '{name}' stopped. {error} {data.describe_non_finite()}".strip()) from error
        return Trained(distiller.student, history)
