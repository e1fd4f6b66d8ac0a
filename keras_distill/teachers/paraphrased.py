"""Model with paraphrased feature maps as the teacher (FT)."""

from collections.abc import Sequence

import keras

from keras_distill.data.batch import Batch
from keras_distill.models.taps import Taps
from keras_distill.teachers.base import Teacher
from keras_distill.types import Structure

FACTORS = "factors"


class ParaphrasedTeacher(Teacher):
    """Model as the teacher, with the paraphraser's factors of one feature map at the tap `"factors"` (FT).

    Model and paraphraser run in inference mode and are not changed.

    Args:
        model: The `keras.Model`.
        tap: Path of the layer whose feature map is paraphrased, as `Term` takes it.
        paraphraser: A trained `Paraphraser`.

    Raises:
        ValueError: If the paraphraser is not built.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977

    Example:
    >>> paraphraser = Paraphraser(rate=0.5)
    >>> paraphraser.build((None, 4, 4, 16))  # and train it, as shown in Paraphraser
    >>> paraphrased = ParaphrasedTeacher(teacher, "block_4", paraphraser)
    >>> term = Term(FactorTransfer(), student="block_2", teacher="factors", head=Translator(), weight=500 / (4 * 4 * 8))
    >>> distiller = Distiller(student=student, teacher=paraphrased, terms=[term])
    """

    def __init__(self, model: keras.Model, tap: str, paraphraser: keras.Model):
        if not paraphraser.built:
            raise ValueError(
                f"The paraphraser of tap '{tap}' has no weights. First train it to reconstruct the feature maps of "
                f"'{model.name}' at this tap: `paraphraser.fit(maps, maps)`."
            )
        self.model = model
        self.tap = tap
        self.paraphraser = paraphraser

    @property
    def signature(self) -> str:
        # Part of the fingerprint of caches: their text must not change.
        return f"paraphrased {self.tap}"

    @property
    def weights(self) -> tuple:
        return (*self.model.weights, *self.paraphraser.weights)

    @property
    def models(self) -> tuple:
        return (self.model,)

    def connect(self, taps: Sequence[str]) -> None:
        model_taps = [self.tap, *(tap for tap in taps if tap != FACTORS)]
        self._taps = Taps(self.model, list(dict.fromkeys(model_taps)))

    def activations(self, batch: Batch) -> dict[str, Structure]:
        activations = self._taps(batch.inputs, training=False)
        return {**activations, FACTORS: self.paraphraser.encode(activations[self.tap])}
