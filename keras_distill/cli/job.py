"""What a student is to learn: models and terms, as the options of `check` and `distill` name them."""

import keras

from keras_distill import losses, mapping
from keras_distill.models.taps import tap_names
from keras_distill.preflight import check
from keras_distill.saving.load import save_model
from keras_distill.training.distiller import Distiller
from keras_distill.training.term import Term

from .common import CommandError
from .reading import load
from .softmax import LOGITS, without_softmax


class DistillationJob:
    """The models that a command was given, and the terms between them.

    Attributes:
        teacher: The teacher's `keras.Model`, less the softmax at its end.
        student: The student's likewise, with the weights of its file.
        classes: How many the student tells apart.
        terms: List of `Term`.
        taps: What of the teacher they need.

    Raises:
        Refused: If a model cannot be read, or is no classifier.
        ValueError: If models and terms do not fit together, as `Distiller`.
    """

    def __init__(self, options):
        self._options = options
        self._put_back = {}
        self.teacher = self._load(options.teacher)
        self.student = self._load(options.student)
        self.classes = _classes(self.student)
        self.terms = _terms(options, self.student, self.teacher)
        self.taps = list(dict.fromkeys(tap for term in self.terms for tap in tap_names(term.teacher)))
        # Before any data are read.
        Distiller(student=self.student, teacher=self.teacher, terms=self.terms, supervised_weight=self._options.alpha)

    @property
    def version(self):
        """What tells the teacher's activations from those of its file, for a cache; None if nothing does."""
        return LOGITS if self._put_back[self.teacher] else None

    def distiller(self, material, steps):
        """A `Distiller` of the student, compiled.

        Args:
            material: The `Material`.
            steps: How many the training has.
        """
        # For the heads.
        keras.utils.set_random_seed(self._options.seed)
        distiller = Distiller(
            student=self.student, teacher=material.taught_by, terms=self.terms, supervised_weight=self._options.alpha
        )
        return self._compiled(distiller, material, steps)

    def baseline(self, material, steps):
        """The same of the student as it is in its file, learning from the labels alone."""
        return self._compiled(
            Distiller(student=self._load(self._options.student), teacher=None, terms=[]), material, steps
        )

    def findings(self, material, batches=8):
        """What is likely to spoil the training, a list of `Finding`."""
        # In an order of their own the first ones might all be of one class.
        return check(self.distiller(material, steps=material.count), material.batches(seed=0), batches=batches)

    def save(self, student, path):
        """Writes a trained student, with the softmax that its file had. It is not to be trained any further."""
        if self._put_back[student]:
            self._put_back[student]()
        save_model(student, path)

    def _load(self, path):
        # Dropout has seeds of its own, which are in no file.
        keras.utils.set_random_seed(self._options.seed)
        model = load(path, self._options.modules)
        self._put_back[model] = without_softmax(model)
        return model

    def _compiled(self, distiller, material, steps):
        rate = keras.optimizers.schedules.CosineDecay(self._options.learning_rate, steps)
        optimizer = {"class_name": self._options.optimizer, "config": {"learning_rate": rate}}
        loss = {
            None: None,
            "numbers": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "one-hot": keras.losses.CategoricalCrossentropy(from_logits=True),
        }[material.labels]
        distiller.compile(keras.optimizers.get(optimizer), loss, metrics=None if loss is None else ["accuracy"])
        return distiller


def _classes(model):
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not shape[-1] or shape[-1] < 2:
        raise CommandError(
            f"'{model.name}' puts out {shape}. The command takes classifiers: one output, (None, classes), of 2 "
            "classes or more. For others there is keras_distill.Distiller in Python."
        )
    return shape[-1]


def _terms(options, student, teacher):
    found = [Term(losses.KLDivergence(options.temperature), weight=1 - options.alpha)]
    for feature in options.features:
        pairs = [(feature.student, feature.teacher)]
        if "*" in feature.student or "*" in feature.teacher:
            pairs = mapping.uniform(mapping.layers(student, feature.student), mapping.layers(teacher, feature.teacher))
        loss = getattr(losses, feature.loss)
        found += [Term(loss(), *pair, head="auto", weight=feature.weight) for pair in pairs]
    return found
