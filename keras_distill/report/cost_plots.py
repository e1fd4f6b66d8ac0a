"""Figures of the score against size and latency, with the Pareto front."""

import dataclasses
import math
from collections.abc import Callable

from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from keras_distill.experiment.results import Results
from keras_distill.experiment.score import Score
from keras_distill.utils.drawing import PAPER, SOFT, STEPS, Figure, colors, figure, shorten
from keras_distill.utils.formatting import format_size


@dataclasses.dataclass(frozen=True)
class Point:
    """A model or file in a figure.

    Attributes:
        name: Text beside the point.
        cost: Size or latency, > 0.
        score: Mean score.
        spread: Standard deviation of the score; None for one run.
        color: "#RRGGBB".
    """

    name: str
    cost: float
    score: float
    spread: float | None
    color: str


def model_figures(results: Results) -> list[Figure]:
    """Draw the score of the models against parameters, or else bytes, and against latency.

    Args:
        results: A `Results`. Models without the cost are left out, and so are figures without two different costs.
    """
    chosen = colors(results)

    def points(cost):
        costs = [(model, cost(model)) for model in results.models]
        return [
            Point(model.name, value, model.mean(), model.spread(), chosen[model.name])
            for model, value in costs
            if value
        ]

    sizes, label, form = points(lambda model: model.parameters), "parameters", short_count
    if len({point.cost for point in sizes}) < 2:
        sizes, label, form = points(lambda model: model.bytes), "size of the saved model", format_size
    latencies = points(lambda model: None if model.latency is None else model.latency.median)
    figures = [
        _scatter(results.score, sizes, label, form),
        _scatter(results.score, latencies, "ms per example", lambda value: f"{value:.3g}"),
    ]
    return [each for each in figures if each is not None]


def profile_figures(results: Results) -> list[Figure]:
    """Draw the score of the exported files against their size and against their latency.

    Args:
        results: A `Results`. Profiles without a score or without the measured cost are left out, and so are figures
            without two different costs.
    """
    chosen, figures = colors(results), []
    costs = {
        "size on disk": (lambda profile: profile.bytes, format_size),
        "ms of one prediction, median": (lambda profile: profile.median, lambda value: f"{value:.3g}"),
    }
    names = _names([(profile.model, profile.format) for profile in results.profiles])
    for label, (cost, form) in costs.items():
        points = [
            Point(
                name,
                cost(profile),
                profile.score,
                profile.spread,
                chosen[profile.model],
            )
            for name, profile in zip(names, results.profiles)
            if profile.scores and cost(profile)
        ]
        figures.append(_scatter(results.score, points, label, form))
    return [each for each in figures if each is not None]


def _names(files):
    """Return texts for `(model, format)` of files, numbered as in the table; what all have in common is left out."""
    models, formats = ({file[index] for file in files} for index in (0, 1))

    def text(model, format):
        if len(models) == 1:
            return format
        return model if len(formats) == 1 else f"{model}, {format.removeprefix('litert_')}"

    return [f"{number}. {text(*file)}" for number, file in enumerate(files, 1)]


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """Return the indices of the points on the Pareto front, by increasing cost.

    Args:
        points: List of `(cost, score)`, where a larger score is better. A point dominates another if it is at least as
            good in both and better in one.
    """
    front = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def short_count(value: float) -> str:
    """Return a number as "1.2 M", "31 k" or "812"."""
    for power, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= power:
            return f"{value / power:.3g}{unit}"
    return f"{value:g}"


def _scatter(score: Score, points: list[Point], label: str, format_cost: Callable[[float], str]) -> Figure | None:
    points = [point for point in points if math.isfinite(point.score)]
    if len({point.cost for point in points}) < 2:
        return None
    front = pareto([(point.cost, score.sign * point.score) for point in points])
    height = max(2.7, 0.8 + 0.19 * len(points))
    with figure(height) as canvas:
        axes = canvas.subplots()
        best = [points[index] for index in front]
        line = {"where": "post", "color": SOFT, "linewidth": 1.0, "zorder": 1}
        axes.step([point.cost for point in best], [score.scaled(point.score) for point in best], **line)
        for index, point in enumerate(points):
            y = score.scaled(point.score)
            if point.spread is not None and math.isfinite(point.spread):
                axes.errorbar(point.cost, y, score.scaled(point.spread), color=point.color, elinewidth=1.0, zorder=2)
            fill = point.color if index in front else PAPER
            axes.plot(point.cost, y, "o", ms=7, mfc=fill, mec=point.color, mew=1.4, zorder=3)
        _set_axes(axes, score, points, label, format_cost)
        _label(axes, score, points, 0.16 / (height - 0.6))
        return Figure(canvas, _alt(score, points, label, format_cost), _caption(score, points))


def _set_axes(axes, score, points, label, format_cost):
    low, high = (math.log10(function(point.cost for point in points)) for function in (min, max))
    margin = 0.1 * (high - low)
    limits = 10 ** (low - margin), 10 ** (high + margin)
    axes.set(xscale="log", xlabel=label, ylabel=score.axis_label, xlim=limits)
    axes.margins(y=0.12)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(*limits)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_cost(value)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.grid(True)


def _ticks(low, high):
    """Return two to five round numbers on a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(ticks) <= 4:
            return ticks
    if len(ticks) > 4:
        return ticks[:: -(-len(ticks) // 4)]
    return [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]


def _label(axes, score, points, gap):
    """Write the names on the right side, far enough from one another, each with a line to its point."""
    low, high = axes.get_ylim()
    heights = [(score.scaled(point.score) - low) / (high - low) for point in points]
    places = spread_out(heights, gap)
    for point, place in zip(points, places):
        axes.annotate(
            shorten(point.name, 22),
            (point.cost, score.scaled(point.score)),
            (1.05, place),
            textcoords="axes fraction",
            fontsize=8.5,
            va="center",
            arrowprops={"arrowstyle": "-", "color": SOFT, "alpha": 0.45, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 4},
            zorder=0,
        )


def spread_out(heights: list[float], gap: float) -> list[float]:
    """Return heights that differ by at least a gap, in the same order and close to the given ones.

    Args:
        heights: Numbers from 0 to 1.
        gap: Smallest difference. Beyond `1 / gap` numbers the result exceeds 0 to 1.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    places = [heights[index] for index in order]
    for place in range(1, len(places)):
        places[place] = max(places[place], places[place - 1] + gap)
    places[-1] = min(places[-1], max(1.0, (len(places) - 1) * gap))
    for place in range(len(places) - 2, -1, -1):
        places[place] = min(places[place], places[place + 1] - gap)
    moved = dict(zip(order, places))
    return [moved[index] for index in range(len(heights))]


def _alt(score, points, label, format_cost):
    texts = [f"{point.name}: {format_cost(point.cost)}, {score.text(point.score, point.spread)}" for point in points]
    return f"{score.name} against {label}. {'; '.join(texts)}."


def _caption(score, points):
    better = "up and to the left" if score.higher_is_better else "down and to the left"
    caption = f"Filled, on the line: the Pareto front, beaten by no other in both respects. Better is {better}."
    if any(point.spread is not None for point in points):
        caption += " Error bars: sample standard deviation over the seeds."
    return caption
