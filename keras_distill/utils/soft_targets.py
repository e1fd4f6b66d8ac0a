"""Bar charts of soft targets: the class probabilities of several models for one example."""

import textwrap
from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_distill.utils.drawing import Figure, figure, shorten

# More classes than this in one figure are too small to read on a phone.
MOST_CLASSES = 12
PER_ROW = 4


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Compute the softmax of `logits / temperature`.

    Args:
        logits: Shape `[..., classes]`.
        temperature: Softmax temperature, > 0. 1 to 4 is typical.

    Returns:
        Probabilities, float64, shape `[..., classes]`.
    """
    return keras.ops.convert_to_numpy(keras.ops.softmax(np.asarray(logits, float) / temperature))


def bars(
    classes: Sequence[str], label: int, panels: Sequence[tuple[str, float, np.ndarray]], chosen: dict[str, str]
) -> Figure:
    """Draw the class probabilities of one example, a panel for each model and temperature.

    Args:
        classes: Names of the classes.
        label: Index of the true class.
        panels: Triples `(name of the model, temperature, probabilities)`, the last of shape `[classes]`.
        chosen: `{name of the model: color}`.

    Returns:
        The rendered `Figure`. With more than 12 classes it shows only the true class and the most probable ones.
    """
    shown = _shown_classes(classes, label, panels)
    rows = -(-len(panels) // PER_ROW)
    softest = np.nanmax([values[shown] for _, temperature, values in panels if temperature != 1] or [1.0])
    softest = softest if np.isfinite(softest) else 1.0
    with figure(rows * (0.8 + 0.17 * len(shown))) as canvas:
        grid = canvas.subplots(rows, min(PER_ROW, len(panels)), sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, temperature, values) in zip(grid.flat, panels, strict=False):
            axes.barh(range(len(shown)), values[shown], height=0.7, color=chosen[name])
            end = 1.0 if temperature == 1 else 1.08 * softest
            axes.set(xlim=(0, end), ylim=(len(shown) - 0.4, -0.6))
            axes.set_title(f"{textwrap.fill(shorten(name, 30), 11)}\nT = {temperature:g}", fontsize=8.5)
            axes.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
            # "0.0" and "1.0" of neighboring panels would touch.
            axes.xaxis.set_major_formatter("{x:g}")
            axes.tick_params(axis="y", length=0)
            axes.grid(True, axis="x")
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(shown)), [shorten(classes[index], 14) for index in shown])
            for index, tick in zip(shown, axes.get_yticklabels(), strict=True):
                tick.set_fontweight("bold" if index == label else "normal")
        caption = f"{len(shown)} of {len(classes)} classes: the true one and those that some model finds most probable."
        caption = caption if len(shown) < len(classes) else ""
        return Figure(canvas, _alt(classes, label, panels), caption)


def _shown_classes(classes, label, panels):
    """Return the indices of all classes, or of the true one and those with the highest probability in any model."""
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
    return f"Class probabilities for an image of {classes[label]}. {'; '.join(texts)}."
