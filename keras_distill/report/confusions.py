"""Figures of confusion matrices, and the list of the most frequent confusions."""

import numpy as np
from matplotlib.colors import ListedColormap, Normalize, PowerNorm, to_rgb

from keras_distill.experiment.model_result import ModelResult
from keras_distill.experiment.results import Results
from keras_distill.utils.drawing import FIRST, OTHERS, Figure, figure, shorten
from keras_distill.utils.formatting import UNKNOWN

# Vermilion for errors; blue for fewer and vermilion for more, as in the palette of the other figures. They fade into
# the background, light or dark, on which numbers in the color of the text stay readable.
_BLUE, _VERMILION = to_rgb(FIRST["distilled"]), to_rgb(OTHERS[1])
_OPACITIES = np.linspace(0.2, 0.85, 31)
ERRORS = ListedColormap([(*_VERMILION, 0), *((*_VERMILION, opacity) for opacity in _OPACITIES)])
CHANGE = ListedColormap([*((*_BLUE, opacity) for opacity in _OPACITIES[::-1]), *ERRORS.colors])
_DIAGONAL = ListedColormap([(0.5, 0.5, 0.5, 0.25)])
# With more classes than this, the names or the numbers would overlap.
MOST_NAMES = 26
MOST_NUMBERS = 10
# Rows of the list of confusions.
PAIRS = 8


def errors_per_run(model: ModelResult) -> np.ndarray | None:
    """Return the confusion matrix per run with a zero diagonal.

    Args:
        model: A `ModelResult`.

    Returns:
        Mean counts over the runs, float64, shape `[classes, classes]`; None unless every run has a confusion matrix.
    """
    counts = model.confusion()
    if counts is None:
        return None
    errors = counts / len(model.runs)
    np.fill_diagonal(errors, 0)
    return errors


def matrices(results: Results) -> list[Figure]:
    """Draw the errors of each model, and the change from each baseline to its distilled model.

    The error matrices share one color scale.

    Args:
        results: A `Results`.

    Returns:
        One `Figure` per matrix.
    """
    all_errors = _all_errors(results)
    most = max((errors.max() for errors in all_errors.values()), default=0) or 1
    figures = [
        _matrix(results, errors, shorten(name, 44), ERRORS, PowerNorm(0.5, 0, most), f"Errors of {name}.")
        for name, errors in all_errors.items()
    ]
    for model in results.models:
        baseline = results.baseline(model)
        if baseline is not None and model.name in all_errors and baseline.name in all_errors:
            change = all_errors[model.name] - all_errors[baseline.name]
            bound = np.abs(change).max() or 1
            title = f"{shorten(model.name, 24)} minus {shorten(baseline.name, 24)}"
            alt = f"Errors of {model.name} minus errors of {baseline.name}. Blue: fewer after distillation; red: more."
            figures.append(_matrix(results, change, title, CHANGE, Normalize(-bound, bound), alt))
    return figures


def frequent(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """List the most frequent confusions over all models.

    Args:
        results: A `Results`.

    Returns:
        Headings and rows of text: true class, predicted class, errors per run of each model.
    """
    all_errors = _all_errors(results)
    if not all_errors:
        return (), []
    total = sum(all_errors.values())
    order = np.argsort(-total, axis=None, kind="stable")[:PAIRS]
    pairs = [np.unravel_index(index, total.shape) for index in order]
    rows = [
        (
            results.classes[true],
            results.classes[guess],
            *(_number(errors[true, guess]) for errors in all_errors.values()),
        )
        for true, guess in pairs
        if total[true, guess] > 0
    ]
    return ("true class", "predicted class", *all_errors), rows


def _all_errors(results):
    all_errors = {model.name: errors_per_run(model) for model in results.models}
    return {name: errors for name, errors in all_errors.items() if errors is not None}


def _matrix(results, values, title, colormap, norm, alt):
    size = len(results.classes)
    with figure(3.7 if size > MOST_NUMBERS else 3.9) as canvas:
        axes = canvas.subplots()
        np.fill_diagonal(shown := values.copy(), np.nan)
        # Without interpolation the SVG contains one pixel per cell.
        image = axes.imshow(shown, cmap=colormap, norm=norm, interpolation="none")
        axes.imshow(np.where(np.eye(size), 1, np.nan), cmap=_DIAGONAL, interpolation="none")
        if size <= MOST_NUMBERS:
            _write_numbers(axes, values)
        else:
            bar = canvas.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02)
            bar.outline.set_visible(False)
            # Edges would cover their neighbors and double the opacity.
            bar.solids.set_edgecolor("none")
        _name_classes(axes, results.classes)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted class", ylabel="true class")
        canvas.suptitle(title, fontweight="bold", fontsize=9)
        return Figure(canvas, f"{alt} {_extremes(results, values)}")


def _write_numbers(axes, values):
    for true, guess in np.argwhere(values):
        axes.text(
            guess,
            true,
            _number(values[true, guess]),
            ha="center",
            va="center",
            fontsize=7.5,
            # The texts lie inside the matrix. Measuring each of them would make the layout slow.
            in_layout=False,
        )


def _name_classes(axes, classes):
    step = -(-len(classes) // MOST_NAMES)
    shown = range(0, len(classes), step)
    names = [shorten(classes[index], 11) for index in shown]
    size = 8 if len(classes) <= 16 else 6.5
    axes.set_xticks(shown, names, fontsize=size, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(shown, names, fontsize=size)
    axes.tick_params(length=0)


def _number(value):
    """Format a count in at most three characters and a sign, since a cell is small."""
    # Adding 0 turns -0 into 0.
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{round(value, 1) + 0.0:g}"


def _extremes(results, values):
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[:3]
    pairs = [np.unravel_index(index, values.shape) for index in order]
    texts = [
        f"{results.classes[true]} predicted as {results.classes[guess]}: {_number(values[true, guess])}"
        for true, guess in pairs
        if values[true, guess]
    ]
    return f"Largest, per run: {'; '.join(texts) or UNKNOWN}."
