"""The dark knowledge: what a teacher thinks of the wrong classes, and what its students learned of it."""

import dataclasses

import numpy as np

from keras_distill.report.results import encode_png
from keras_distill.utils.drawing import Figure, colors
from keras_distill.utils.soft_targets import bars, softened


@dataclasses.dataclass(frozen=True)
class Card:
    """One test image with its bars.

    Attributes:
        image: The image itself, a `Picture`.
        bars: The probabilities, a `Picture`.
        label: Name of the true class.
        answers: A triple per model: its name, the class it predicts, whether that is right.
        small: Whether the image is to be enlarged pixel by pixel.
    """

    image: Figure
    bars: Figure
    label: str
    answers: list
    small: bool


def cards(results):
    """A `Card` per example of the `Results`."""
    return [_card(results, example) for example in results.examples]


def _card(results, example):
    label = results.classes[example.label]
    height, width = example.image.shape[:2]
    source = "data:image/png;base64," + encode_png(example.image)
    answers = []
    for model in results.models:
        if model.name in example.logits:
            guess = int(np.argmax(example.logits[model.name]))
            answers.append((model.name, results.classes[guess], guess == example.label))
    image = Figure(source, width, height, f"Test image of the class {label}.")
    drawn = bars(results.classes, example.label, _panels(results, example), colors(results))
    return Card(image, drawn, label, answers, max(height, width) <= 64)


def _panels(results, example):
    """Triples of name, temperature and probabilities: the teacher at 1 and at T, the students at T."""
    panels = []
    for model in results.models:
        if model.name in example.logits:
            logits = example.logits[model.name]
            temperatures = {1.0, results.temperature} if model.role == "teacher" else {results.temperature}
            panels += [(model.name, value, softened(logits, value)) for value in sorted(temperatures)]
    return panels
