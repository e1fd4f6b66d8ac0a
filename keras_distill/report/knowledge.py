"""Figures of soft targets: class probabilities of teacher and students for single examples."""

import dataclasses

import numpy as np

from keras_distill.experiment.results import Results
from keras_distill.report.photos import Photo, photo
from keras_distill.utils.drawing import Figure, colors
from keras_distill.utils.soft_targets import bars, softened


@dataclasses.dataclass(frozen=True)
class Card:
    """Test image with the class probabilities of the models.

    Attributes:
        image: The image, a `Photo`.
        bars: The class probabilities, a `Figure`.
        label: Name of the true class.
        predictions: `(name of the model, predicted class, correct)` for each model.
    """

    image: Photo
    bars: Figure
    label: str
    predictions: list[tuple[str, str, bool]]


def cards(results: Results) -> list[Card]:
    """Return one `Card` per example of the `Results`.

    Args:
        results: A `Results`.
    """
    return [_card(results, example) for example in results.examples]


def _card(results, example):
    label = results.classes[example.label]
    predictions = []
    for model in results.models:
        if model.name in example.logits:
            guess = int(np.argmax(example.logits[model.name]))
            predictions.append((model.name, results.classes[guess], guess == example.label))
    image = photo(example.image, f"Image of class {label}.")
    probabilities = bars(results.classes, example.label, _panels(results, example), colors(results))
    return Card(image, probabilities, label, predictions)


def _panels(results, example):
    """Return `(name, temperature, probabilities)`: the teacher at 1 and at T, the students at T."""
    panels = []
    for model in results.models:
        if model.name in example.logits:
            logits = example.logits[model.name]
            temperatures = {1.0, results.temperature} if model.role == "teacher" else {results.temperature}
            panels += [(model.name, value, softened(logits, value)) for value in sorted(temperatures)]
    return panels
