"""Models and loss terms of a distillation, as the options of `check` and `distill` name them."""

import argparse
import pathlib
from typing import TYPE_CHECKING

import keras

from keras_distill import losses, mapping
from keras_distill.models.softmax import ends_in_softmax
from keras_distill.models.taps import tap_names
from keras_distill.preflight import Finding, check
from keras_distill.saving.load import save_model
from keras_distill.training.distiller import Distiller
from keras_distill.training.term import Term

from .common import CommandError
from .reading import load

if TYPE_CHECKING:
    from .data import Data


class DistillationJob:
    """Models of a command and the terms between them.

    Attributes:
        teacher: The teacher.
        student: The student with the weights of its file.
        classes: Number of classes of the student.
        terms: List of `Term`.
        taps: List of the teacher's taps that the terms need.

    Args:
        options: Options of the command.

    Raises:
        CommandError: If a model cannot be loaded, or the student is not a classifier.
        ValueError: If models and terms do not fit together, as in `Distiller`.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self.teacher = self._load(options.teacher)
        self.student = self._load(options.student)
        self.classes = _num_classes(self.student)
        self.terms = _terms(options, self.student, self.teacher)
        self.taps = list(dict.fromkeys(tap for term in self.terms for tap in tap_names(term.teacher)))
        # Validates models and terms before any data are read.
        Distiller(student=self.student, teacher=self.teacher, terms=self.terms, supervised_weight=self._options.alpha)

    def distiller(self, data: "Data", steps: int) -> Distiller:
        """Return a compiled distiller of the student.

        Args:
            data: The examples, and the teacher or its cache.
            steps: Number of training steps, over which the learning rate decays.
        """
        # For the initial weights of heads.
        keras.utils.set_random_seed(self._options.seed)
        distiller = Distiller(
            student=self.student, teacher=data.teacher, terms=self.terms, supervised_weight=self._options.alpha
        )
        return self._compile(distiller, data, steps)

    def baseline(self, data: "Data", steps: int) -> Distiller:
        """Return a compiled distiller without teacher, of the student with the weights of its file.

        Args:
            data: The examples, which must have labels.
            steps: Number of training steps, over which the learning rate decays.
        """
        student = self._load(self._options.student)
        return self._compile(Distiller(student=student, teacher=None, terms=[]), data, steps)

    def findings(self, data: "Data", batches: int = 8) -> list[Finding]:
        """Return the findings of the pre-flight diagnostics.

        Args:
            data: The examples, and the teacher or its cache.
            batches: Largest number of batches to check. Defaults to 8.
        """
        steps = -(-data.num_training // self._options.batch_size)
        # Shuffled, since the first batches of an ordered dataset may all be of one class.
        return check(self.distiller(data, steps), data.batches(seed=0), batches=batches)

    def save(self, student: keras.Model, path: pathlib.Path) -> None:
        """Save a trained student atomically.

        Args:
            student: The student of a distiller that this object returned.
            path: `.keras` file to write.
        """
        save_model(student, path)

    def _load(self, path: str) -> keras.Model:
        # The seeds of dropout layers are not saved; without this they would differ in each process.
        keras.utils.set_random_seed(self._options.seed)
        return load(path, self._options.modules)

    def _compile(self, distiller: Distiller, data: "Data", steps: int) -> Distiller:
        rate = keras.optimizers.schedules.CosineDecay(self._options.learning_rate, steps)
        optimizer = {"class_name": self._options.optimizer, "config": {"learning_rate": rate}}
        # In a graph, Keras reads the logits from the softmax, so that both forms compute the same loss.
        from_logits = not ends_in_softmax(distiller.student)
        loss = {
            None: None,
            "integer": keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
            "one-hot": keras.losses.CategoricalCrossentropy(from_logits=from_logits),
        }[data.labels]
        distiller.compile(keras.optimizers.get(optimizer), loss, metrics=None if loss is None else ["accuracy"])
        return distiller


def _num_classes(model: keras.Model) -> int:
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not shape[-1] or shape[-1] < 2:
        raise CommandError(
            f"'{model.name}' must be a classifier with one output of shape (None, classes), classes >= 2, but its "
            f"output shape is {shape}. For other models use keras_distill.Distiller in Python."
        )
    return shape[-1]


def _terms(options: argparse.Namespace, student: keras.Model, teacher: keras.Model) -> list[Term]:
    terms = [Term(losses.KLDivergence(options.temperature), weight=1 - options.alpha)]
    for feature in options.features:
        pairs = [(feature.student, feature.teacher)]
        if "*" in feature.student or "*" in feature.teacher:
            pairs = mapping.uniform(mapping.layers(student, feature.student), mapping.layers(teacher, feature.teacher))
        loss = getattr(losses, feature.loss)
        terms += [Term(loss(), *pair, head="auto", weight=feature.weight) for pair in pairs]
    return terms
