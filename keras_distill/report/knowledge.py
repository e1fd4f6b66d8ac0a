"""The dark knowledge: what a teacher thinks of the wrong classes, and what its students learned of it."""

import dataclasses
import textwrap

import keras
import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_distill.report.results import encode_png
from keras_distill.utils.drawing import Figure, colors, figure, render_figure, shorten

# More classes than this in one figure are too small to read on a phone.
MOST_CLASSES = 12
PER_ROW = 4


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


def softened(logits, temperature):
    """Softmax of `logits / temperature`, float64, same shape."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(np.asarray(logits, float) / temperature))


def bars(classes, label, panels, chosen):
    """Class probabilities of one example. Returns a `Picture`.

    Args:
        classes: Their names.
        label: Index of the true one.
        panels: List of `(name of a model, temperature, probabilities)`.
        chosen: `{name of a model: its colour}`.
    """
    kept = _kept(classes, label, panels)
    rows = -(-len(panels) // PER_ROW)
    softest = np.nanmax([values[kept] for _, temperature, values in panels if temperature != 1] or [1.0])
    softest = softest if np.isfinite(softest) else 1.0
    with figure(rows * (0.8 + 0.17 * len(kept))) as drawn:
        grid = drawn.subplots(rows, min(PER_ROW, len(panels)), sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, temperature, values) in zip(grid.flat, panels, strict=False):
            axes.barh(range(len(kept)), values[kept], height=0.7, color=chosen[name])
            end = 1.0 if temperature == 1 else 1.08 * softest
            axes.set(xlim=(0, end), ylim=(len(kept) - 0.4, -0.6))
            axes.set_title(f"{textwrap.fill(shorten(name, 30), 11)}\nT = {temperature:g}", fontsize=8.5)
            axes.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
            # "0.0" and "1.0" of neighbouring panels would touch.
            axes.xaxis.set_major_formatter("{x:g}")
            axes.tick_params(axis="y", length=0)
            axes.grid(True, axis="x")
            axes.set_axisbelow(True)
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(kept)), [shorten(classes[index], 14) for index in kept])
            for index, tick in zip(kept, axes.get_yticklabels(), strict=True):
                tick.set_fontweight("bold" if index == label else "normal")
        caption = f"{len(kept)} of {len(classes)} classes: those that some model finds most probable."
        caption = caption if len(kept) < len(classes) else ""
        return render_figure(drawn, _alt(classes, label, panels), caption)


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


def _kept(classes, label, panels):
    """Indices of the classes to show: all, or those that any model finds most probable, and the true one."""
    if len(classes) <= MOST_CLASSES:
        return list(range(len(classes)))
    highest = np.max([values for _, _, values in panels], axis=0, initial=0)
    highest[label] = np.inf
    return sorted(np.argsort(-highest)[:MOST_CLASSES].tolist())


def _alt(classes, label, panels):
    said = []
    for name, temperature, values in panels:
        top = [f"{classes[index]} {values[index]:.2f}" for index in np.argsort(-values)[:3]]
        said.append(f"{name} at T = {temperature:g}: {', '.join(top)}")
    return f"Class probabilities for a test image of {classes[label]}. {'; '.join(said)}."
