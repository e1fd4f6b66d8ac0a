"""The trainings of `distill`: the student by its teacher, and perhaps once more alone. Each may be killed."""

import contextlib
import pathlib
import shutil
import sys
import time
from typing import NamedTuple

import keras

from keras_distill.callbacks.backup import Backup
from keras_distill.saving import checkpoints

DISTILLED, ALONE = NAMES = ("distilled", "alone")
VALIDATION = "teacher_validation"


class Trained(NamedTuple):
    """A training that has come to its end.

    Attributes:
        model: The student.
        history: `{name: [value per epoch]}`.
        seconds: How long it took; if it was killed, since it was started again.
    """

    model: keras.Model
    history: dict
    seconds: float


class Training:
    """The trainings that the options ask for.

    Args:
        options: Of the command.
        lesson: The `Lesson`.
        material: The `Material`.
        settings: What the trained weights depend on, `{name: value}`.
    """

    def __init__(self, options, lesson, material, settings):
        self.folder = pathlib.Path(options.out) / "unfinished"
        self._options = options
        self._lesson = lesson
        self._material = material
        self._settings = settings

    def begun(self):
        """Whether an earlier process has begun them, and not finished."""
        return any((self.folder / name).exists() for name in NAMES)

    def forget(self):
        """Deletes what was begun."""
        for name in NAMES:
            checkpoints.remove(self.folder / name)
        shutil.rmtree(self.folder / VALIDATION, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def run(self):
        """`{"distilled": Trained}`, and "alone" if a baseline is asked for."""
        return {name: self._train(name) for name in (NAMES if self._options.baseline else NAMES[:1])}

    def _train(self, name):
        options, material = self._options, self._material
        steps = options.epochs * -(-material.count // options.batch_size)
        taught = name == DISTILLED
        distiller = (self._lesson.distiller if taught else self._lesson.baseline)(material, steps)
        backup = Backup(
            self.folder / name, every=options.backup_every, seed=options.seed, settings=self._settings, keep=True
        )
        print(f"student {name}", flush=True)
        started = time.time()
        history = distiller.fit(
            backup.epochs(lambda seed: material.batches(seed, taught)),
            epochs=options.epochs,
            validation_data=material.validation_batches(taught),
            callbacks=[backup],
            # The data are shuffled.
            shuffle=False,
            # A bar in a file would fill it.
            verbose=1 if sys.stdout.isatty() else 2,
        ).history
        return Trained(distiller.student, history, time.time() - started)
