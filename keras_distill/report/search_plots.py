"""Figures of a hyperparameter search."""

import pathlib

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.scale import LogScale
from matplotlib.ticker import MaxNLocator, NullLocator

from keras_distill.tuning.search import Search
from keras_distill.utils.drawing import FIRST, LINE, OTHERS, PAPER, SOFT, STEPS, Figure, figure, shorten
from keras_distill.utils.files import atomic_write

# Transparent for bad trials and opaque for good ones, on a light or dark page; the best trial has its own color.
BETTER = LinearSegmentedColormap.from_list("better", [to_rgba(FIRST["distilled"], alpha) for alpha in (0.15, 1)], 12)
BEST = OTHERS[1]


def search_figures(search: Search) -> dict[str, Figure]:
    """Draw the figures of a search.

    Args:
        search: A `Search`.

    Returns:
        `{name: Figure}`; empty if no trial was completed.
    """
    if not search.ranked():
        return {}
    figures = {"best_so_far": best_so_far(search), "parallel_coordinates": parallel_coordinates(search)}
    if {"temperature", "alpha"} <= {dimension.name for dimension in search.varied()}:
        figures["temperature_against_alpha"] = one_against_another(search, "temperature", "alpha")
    return figures


def draw_search(search: Search, folder: str | pathlib.Path) -> list[pathlib.Path]:
    """Write the figures of a `Search` as PNG files.

    Args:
        search: A `Search`.
        folder: Folder for `best_so_far.png`, `parallel_coordinates.png` and, if both were searched,
            `temperature_against_alpha.png`. It is created if it does not exist.

    Returns:
        Paths of the files; empty if no trial was completed.

    Example:

    >>> from keras_distill.report import draw_search
    >>> from keras_distill.tuning.search import Hyperparameter, Search, Trial
    >>> trials = [Trial("0", {"temperature": 2.0}, 0.81), Trial("1", {"temperature": 8.0}, 0.84)]
    >>> search = Search("val_accuracy", "max", [Hyperparameter("temperature", 1.0, 16.0, True)], trials)
    >>> [path.name for path in draw_search(search, "figures")]
    ['best_so_far.png', 'parallel_coordinates.png']
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {folder / f"{name}.png": drawn for name, drawn in search_figures(search).items()}
    for path, drawn in paths.items():
        with atomic_write(path) as file:
            file.write(drawn.png())
    return list(paths)


def best_so_far(search: Search) -> Figure:
    """Draw the score of each trial in the order in which they ended, and the best score so far.

    Args:
        search: A `Search` with a completed trial.
    """
    view = _ScoreView(search)
    most = max((trial.epochs or 0 for trial in search.trials), default=0)
    with figure(2.7) as canvas:
        axes = canvas.subplots()
        for number, trial in enumerate(search.trials, 1):
            if trial.state != "completed":
                axes.plot(number, 0.03, "x", color=SOFT, ms=5, transform=axes.get_xaxis_transform())
                continue
            marker = "o" if view.contains(trial.score) else "v" if trial.score < view.low else "^"
            fill = PAPER if trial.epochs is not None and trial.epochs < most else FIRST["distilled"]
            axes.plot(number, view.scaled(trial.score), marker, ms=4.5, mfc=fill, mec=FIRST["distilled"], mew=0.9)
        numbers = np.arange(1, len(search.trials) + 1)
        axes.step(numbers, view.scaled(search.best_so_far()), where="post", color=BEST, zorder=1)
        margin = 0.08 * (view.scaled(view.high) - view.scaled(view.low)) or 0.05
        axes.set(xlabel="trial", ylabel=view.label, xlim=(0.4, len(numbers) + 0.6))
        axes.set_ylim(view.scaled(view.low) - margin, view.scaled(view.high) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.grid(True, axis="y")
        return Figure(canvas, _alt(search), _best_so_far_caption(search, view, most))


def _best_so_far_caption(search, view, most):
    sentences = ["Dots: the trials. Line: the best score so far."]
    if any(trial.epochs is not None and trial.epochs < most for trial in search.trials):
        sentences.append(f"Filled: trained for {most} epochs, the maximum; hollow: for fewer.")
    if any(not view.contains(trial.score) for trial in search.ranked()):
        sentences.append("Triangles: beyond the axis.")
    if any(trial.state != "completed" for trial in search.trials):
        sentences.append("×: over the budget, failed or unfinished.")
    return " ".join(sentences)


def parallel_coordinates(search: Search) -> Figure:
    """Draw one line per completed trial across one axis per hyperparameter and one for the objective.

    Args:
        search: A `Search` with a completed trial.
    """
    view, space, ranked = _ScoreView(search), search.varied(), search.ranked()
    with figure(0.4 + 0.5 * (len(space) + 1)) as canvas:
        axes = canvas.subplots()
        for rank, trial in reversed(list(enumerate(ranked))):
            positions = {
                row: dimension.position(trial.values[dimension.name])
                for row, dimension in enumerate(space)
                if dimension.name in trial.values
            }
            positions[len(space)] = view.position(trial.score)
            first = {"color": BEST, "linewidth": 2.0, "markersize": 3.5}
            other = {"color": view.color(trial.score), "linewidth": 0.9, "markersize": 2}
            style = other if rank else first
            axes.plot(list(positions.values()), list(positions), "o-", clip_on=False, zorder=3, **style)
        ends = [(0, f"{view.scaled(view.low):.4g}"), (1, f"{view.scaled(view.high):.4g}")]
        for row, ticks in enumerate([*map(_ticks, space), ends]):
            _draw_axis(axes, row, ticks)
        names = [dimension.name.replace("_", " ") for dimension in space]
        axes.set_yticks(range(len(names) + 1), [shorten(name, 22) for name in [*names, view.label]])
        axes.tick_params(length=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(names) + 0.55, -0.3), xticks=[])
        axes.spines[:].set_visible(False)
        return Figure(canvas, _alt(search), _parallel_coordinates_caption(search, view))


def _draw_axis(axes, row, ticks):
    axes.axhline(row, color=LINE, linewidth=0.8, zorder=1)
    # Longer texts would overlap.
    length = max(2, 34 // max(len(ticks), 1))
    for x, text in ticks:
        align = "left" if x < 0.05 else "right" if x > 0.95 else "center"
        axes.annotate(
            shorten(text, length),
            (x, row + 0.14),
            ha=align,
            va="top",
            fontsize=7,
            color=SOFT,
            bbox={"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 0.4},
            zorder=4,
        )


def _parallel_coordinates_caption(search, view):
    space, ranked = search.varied(), search.ranked()
    sentences = ["One line per trial, stronger is better; thick: the best."]
    logarithmic = [dimension.name.replace("_", " ") for dimension in space if dimension.logarithmic]
    sentences += [f"Logarithmic: {', '.join(logarithmic)}."] if logarithmic else []
    if any(dimension.name not in trial.values for dimension in space for trial in ranked):
        sentences.append("No dot: the hyperparameter is not active in the trial.")
    if any(not view.contains(trial.score) for trial in ranked):
        sentences.append(f"Scores beyond the axis of {view.label} are drawn at its end.")
    return " ".join(sentences)


def one_against_another(search: Search, x: str, y: str) -> Figure:
    """Draw the completed trials over two hyperparameters, colored by score.

    Args:
        search: A `Search` with a completed trial.
        x: Name of the hyperparameter on the horizontal axis.
        y: Name of the hyperparameter on the vertical axis.
    """
    view = _ScoreView(search)
    ranked = [trial for trial in search.ranked() if {x, y} <= set(trial.values)]
    with figure(3.0) as canvas:
        axes = canvas.subplots()
        for rank, trial in reversed(list(enumerate(ranked))):
            first = {"edgecolors": BEST, "linewidths": 2, "s": 80}
            ring = {"edgecolors": PAPER, "linewidths": 0.6, "s": 44} if rank else first
            color = [view.color(trial.score)]
            axes.scatter(trial.values[x], trial.values[y], color=color, zorder=3, clip_on=False, **ring)
        axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
        for axis, name in (("x", x), ("y", y)):
            _set_scale(axes, axis, next(dimension for dimension in search.space if dimension.name == name))
        axes.grid(True)
        bar = canvas.colorbar(
            ScalarMappable(view.norm, view.colors), ax=axes, aspect=30, ticks=MaxNLocator(5, steps=STEPS)
        )
        bar.outline.set_visible(False)
        # Edges would cover their neighbors and double the opacity.
        bar.solids.set_edgecolor("none")
        bar.set_label(view.label)
        return Figure(canvas, _alt(search), "Dots: the trials. Ring: the best trial.")


class _ScoreView:
    """Range, scale and colors of the scores of a search: in percent for accuracies, without the worst outliers."""

    def __init__(self, search):
        scores = np.array([trial.score for trial in search.ranked()])
        # The axis ends at four times the distance of the median from the best score. Otherwise a trial that did not
        # learn would flatten all others.
        reach = 4 * abs(scores[0] - np.median(scores)) or np.inf
        self.low = max(scores.min(), scores[0] - reach)
        self.high = min(scores.max(), scores[0] + reach)
        accuracy = search.objective.endswith("accuracy")
        self.scale = 100 if accuracy else 1
        words = search.objective.replace("val_", "validation ").replace("_", " ")
        self.label = f"{words}, %" if accuracy else words
        self.norm = Normalize(self.scaled(self.low), self.scaled(self.high))
        self.colors = BETTER if search.direction == "max" else BETTER.reversed()

    def scaled(self, score):
        """Return a score in the unit of the axis, clipped to its ends."""
        return self.scale * np.clip(score, self.low, self.high)

    def position(self, score):
        """Return the position between the ends, 0 to 1."""
        return float(self.norm(self.scaled(score))) if self.high > self.low else 0.5

    def contains(self, score):
        return self.low <= score <= self.high

    def color(self, score):
        return self.colors(self.norm(self.scaled(score)))


def _ticks(dimension):
    """Return `(position, text)` of the ticks on a hyperparameter's axis."""
    if dimension.choices:
        return [(dimension.position(value), str(value)) for value in dimension.choices]
    ends = [(0, f"{dimension.low:.3g}"), (1, f"{dimension.high:.3g}")]
    if isinstance(dimension.low, int):
        # The middle of two integers may not be an integer.
        return ends
    low, high = dimension.low, dimension.high
    middle = (low * high) ** 0.5 if dimension.logarithmic else (low + high) / 2
    return [*ends, (0.5, f"{middle:.3g}")]


def _set_scale(axes, axis, dimension):
    """Set scale and limits of an axis, "x" or "y", to the range of a hyperparameter."""
    if dimension.choices:
        return
    margin = 0.03 * (dimension.high - dimension.low)
    limits = (dimension.low - margin, dimension.high + margin)
    if dimension.logarithmic:
        # Powers of two for a short range, which may contain no power of ten.
        axes.set(**{f"{axis}scale": LogScale(axis, base=2 if dimension.high / dimension.low <= 64 else 10)})
        limits = (dimension.low / 1.06, dimension.high * 1.06)
        getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
        getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())
    axes.set(**{f"{axis}lim": limits})


def _alt(search):
    ranked = search.ranked()
    best = ", ".join(f"{heading} {cell}" for heading, cell in zip(search.headings(), search.rows(1)[0]))
    states = {state: sum(trial.state == state for trial in search.trials) for state in ("over budget", "failed")}
    others = "".join(f", {count} {state}" for state, count in states.items() if count)
    return f"{len(search.trials)} trials, {len(ranked)} completed{others}. Best: {best}."
