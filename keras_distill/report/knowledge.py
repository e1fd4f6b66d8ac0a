"""Figures of soft targets: class probabilities of teacher and students for single examples."""

import dataclasses
import textwrap

import keras
import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_distill.report.results import Results, encode_png
from keras_distill.types import Tensor
from keras_distill.utils.drawing import Figure, colors, figure, render_figure, shorten

# More classes than this in one figure are too small to read on a phone.
MOST_CLASSES = 12
PER_ROW = 4


@dataclasses.dataclass(frozen=True)
class Card:
    """Test image with the class probabilities of the models.

    Attributes:
        image: The test image, a `Figure`.
        bars: The class probabilities, a `Figure`.
        label: Name of the true class.
        predictions: `(name of the model, predicted class, correct)` for each model.
        small: True if the image is to be enlarged pixel by pixel.
    """

    image: Figure
    bars: Figure
    label: str
    predictions: list[tuple[str, str, bool]]
    small: bool


def softened(logits: Tensor, temperature: float) -> np.ndarray:
    """Return `softmax(logits / temperature)` as float64, same shape.

    Args:
        logits: Shape `[..., classes]`.
        temperature: Softmax temperature, > 0.
    """
    return keras.ops.convert_to_numpy(keras.ops.softmax(np.asarray(logits, float) / temperature))


def bars(classes: list[str], label: int, panels: list[tuple[str, float, np.ndarray]], chosen: dict[str, str]) -> Figure:
    """Draw the class probabilities of one example, one panel per model and temperature.

    With more than 12 classes, only the true class and those that some model finds most probable are drawn.

    Args:
        classes: Class names.
        label: Index of the true class.
        panels: List of `(name of the model, temperature, probabilities)`.
        chosen: `{name of the model: color}`.

    Returns:
        A `Figure`.
    """
    shown = _classes_to_show(classes, label, panels)
    rows = -(-len(panels) // PER_ROW)
    highest = np.nanmax([values[shown] for _, temperature, values in panels if temperature != 1] or [1.0])
    highest = highest if np.isfinite(highest) else 1.0
    with figure(rows * (0.8 + 0.17 * len(shown))) as canvas:
        grid = canvas.subplots(rows, min(PER_ROW, len(panels)), sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, temperature, values) in zip(grid.flat, panels, strict=False):
            axes.barh(range(len(shown)), values[shown], height=0.7, color=chosen[name])
            end = 1.0 if temperature == 1 else 1.08 * highest
            axes.set(xlim=(0, end), ylim=(len(shown) - 0.4, -0.6))
            axes.set_title(f"{textwrap.fill(shorten(name, 30), 11)}\nT = {temperature:g}", fontsize=8.5)
            axes.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
            # "0.0" and "1.0" of adjacent panels would touch.
            axes.xaxis.set_major_formatter("{x:g}")
            axes.tick_params(axis="y", length=0)
            axes.grid(True, axis="x")
            axes.set_axisbelow(True)
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(shown)), [shorten(classes[index], 14) for index in shown])
            for index, tick in zip(shown, axes.get_yticklabels(), strict=True):
                tick.set_fontweight("bold" if index == label else "normal")
        caption = f"{len(shown)} of {len(classes)} classes: the true one and those that some model finds most probable."
        caption = caption if len(shown) < len(classes) else ""
        return render_figure(canvas, _alt(classes, label, panels), caption)


def cards(results: Results) -> list[Card]:
    """Return one `Card` per example of the `Results`.

    Args:
        results: A `Results`.
    """
    return [_card(results, example) for example in results.examples]


def _card(results, example):
    label = results.classes[example.label]
    height, width = example.image.shape[:2]
    source = "data:image/png;base64," + encode_png(example.image)
    predictions = []
    for model in results.models:
        if model.name in example.logits:
            guess = int(np.argmax(example.logits[model.name]))
            predictions.append((model.name, results.classes[guess], guess == example.label))
    image = Figure(source, width, height, f"Test image of class {label}.")
    probabilities = bars(results.classes, example.label, _panels(results, example), colors(results))
    return Card(image, probabilities, label, predictions, max(height, width) <= 64)


def _panels(results, example):
    """Return `(name, temperature, probabilities)`: the teacher at 1 and at T, the students at T."""
    panels = []
    for model in results.models:
        if model.name in example.logits:
            logits = example.logits[model.name]
            temperatures = {1.0, results.temperature} if model.role == "teacher" else {results.temperature}
            panels += [(model.name, value, softened(logits, value)) for value in sorted(temperatures)]
    return panels


def _classes_to_show(classes, label, panels):
    """Return the indices of all classes, or of the true one and those that any model finds most probable."""
    if len(classes) <= MOST_CLASSES:
        return list(range(len(classes)))
    highest = np.max([values for _, _, values in panels], axis=0, initial=0)
    highest[label] = np.inf
    return sorted(np.argsort(-highest)[:MOST_CLASSES].tolist())


def _alt(classes, label, panels):
    texts = []
    for name, temperature, values in panels:
        top = [f"{classes[index]} {values[index]:.2f}" for index in np.argsort(-values)[:3]]
        texts.append(f"{name} at T = {temperature:g}: {', '.join(top)}")
    return f"Class probabilities for a test image of class {classes[label]}. {'; '.join(texts)}."
