"""A model as the teacher, with factors of one of its maps."""

from keras_distill.models.taps import Taps
from keras_distill.teachers.base import Teacher

FACTORS = "factors"


class ParaphrasedTeacher(Teacher):
    """A model whose map at one tap is also given in the words of a paraphraser, at the tap `"factors"`.

    ```python
    teacher = ParaphrasedTeacher(model, "block_6", paraphraser)
    terms = [Term(KLDivergence()), Term(FactorTransfer(), "block_3", "factors", Translator(), weight=500.0)]
    Distiller(student=student, teacher=teacher, terms=terms)
    ```

    Model and paraphraser run in inference mode and stay as they are.

    Args:
        model: A `keras.Model`.
        tap: Where its map is, as `Taps` reads it.
        paraphraser: A trained `Paraphraser`.

    Raises:
        ValueError: If the paraphraser was not trained.
    """

    def __init__(self, model, tap, paraphraser):
        if not paraphraser.built:
            raise ValueError(
                f"The paraphraser of tap '{tap}' has no weights yet: train it to give back the maps of '{model.name}' "
                "there, `paraphraser.fit(maps, maps)`."
            )
        self.model = model
        self.tap = tap
        self.paraphraser = paraphraser

    @property
    def signature(self):
        return f"paraphrased {self.tap}"

    @property
    def weights(self):
        return (*self.model.weights, *self.paraphraser.weights)

    @property
    def models(self):
        return (self.model,)

    def connect(self, taps):
        self._taps = Taps(self.model, list(dict.fromkeys([self.tap, *(tap for tap in taps if tap != FACTORS)])))

    def activations(self, batch):
        found = self._taps(batch.inputs, training=False)
        return {**found, FACTORS: self.paraphraser.encode(found[self.tap])}
