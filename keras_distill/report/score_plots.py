"""Figures of the scores of every seed and of the paired differences."""

import math

import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy import stats

from keras_distill.experiment.results import Results
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import SIGNIFICANCE
from keras_distill.experiment.verdict import evidence, p_text
from keras_distill.utils.drawing import PAPER, SOFT, STEPS, Figure, colors, figure, shorten

# Vertical positions in a row: the mean above the dots, and the dots at several heights, so that none hides another.
_MEAN, _DOTS = 0.03, (0.24, 0.16, 0.32, 0.2, 0.28)


def score_dots(results: Results) -> Figure:
    """Draw a dot for every run of each model, with their mean and its 95 % interval.

    Args:
        results: A `Results`.
    """
    chosen, teacher = colors(results), results.teacher()
    rows = [(model.name, [run.score for run in model.runs], chosen[model.name]) for model in results.models]
    return draw_dots(results.score, rows, None if teacher is None else teacher.mean())


def draw_dots(score: Score, rows: list[tuple[str, list[float], str]], reference: float | None = None) -> Figure:
    """Draw rows of scores.

    Args:
        score: The `Score`.
        rows: Triples of a name, the scores and a color.
        reference: Score of a teacher for a vertical line. Defaults to None, no line.
    """
    intervals = [mean_interval(values) for _, values, _ in rows]
    with figure(0.72 + 0.46 * len(rows)) as canvas:
        axes = canvas.subplots()
        if reference is not None and math.isfinite(reference):
            _draw_line(axes, score.scaled(reference))
        for place, ((name, values, color), interval) in enumerate(zip(rows, intervals)):
            _draw_row(axes, score, place, values, color, interval)
            text = score.text(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)
            _write_above(axes, place, name, text)
        shown = [value for _, values, _ in rows for value in values] + [
            end for each in intervals if each for end in each
        ]
        shown += [] if reference is None else [reference]
        axes.set(xlim=_limits(score, shown), ylim=(len(rows) - 0.55, -0.65), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.grid(True, axis="x")
        axes.set_xlabel(score.axis_label)
        alt = "; ".join(f"{name}: {_values(score, values)}" for name, values, _ in rows)
        return Figure(canvas, f"{score.name} of each seed. {alt}.", _caption(score, rows, reference))


def mean_interval(values: list[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean from the t distribution; None for fewer than two values or any NaN.

    Args:
        values: A score per seed.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def difference_dots(results: Results) -> list[Figure]:
    """Draw the difference of each comparison with its 95 % interval over seeds.

    Args:
        results: A `Results`.

    Returns:
        One `Figure`; none without comparisons of several seeds.
    """
    shown = [each for each in results.comparisons if each.interval is not None and np.isfinite(each.interval).all()]
    if not shown:
        return []
    chosen, score = colors(results), results.score
    with figure(0.72 + 0.46 * len(shown)) as canvas:
        axes = canvas.subplots()
        _draw_line(axes, 0.0)
        for place, each in enumerate(shown):
            ends, middle = [score.scaled(end) for end in each.interval], score.scaled(each.difference)
            color = chosen[each.model]
            axes.plot(ends, [place + _MEAN] * 2, color=color, linewidth=2, solid_capstyle="butt", zorder=1)
            fill = color if each.clear else PAPER
            axes.plot([middle], [place + _MEAN], "D", ms=6.5, mfc=fill, mec=color, mew=1.4, zorder=3)
            name = f"{shorten(each.model, 18)} \u2212 {shorten(each.baseline, 18)}"
            _write_above(axes, place, name, "" if each.p is None else p_text(each.p))
        ends = [end for each in shown for end in each.interval]
        axes.set(xlim=_limits(score, [0.0, *ends]), ylim=(len(shown) - 0.65, -0.65), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.grid(True, axis="x")
        unit = "percentage points" if score.percent else score.unit
        axes.set_xlabel(f"difference in {score.name}" + (f", {unit}" if unit else ""))
        alt = "; ".join(f"{each.model} minus {each.baseline}: {evidence(results, each)}" for each in shown)
        better = "right" if score.higher_is_better else "left"
        caption = (
            "Mean difference over the seeds and its 95 % interval, with the p-value of the paired t-test. Filled: "
            f"p < {SIGNIFICANCE}. Better than the baseline is to the {better} of the dotted line."
        )
        return [Figure(canvas, f"Differences in {score.name}. {alt}.", caption)]


def _draw_line(axes, x):
    axes.axvline(x, color=SOFT, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)


def _write_above(axes, place, left, right):
    """Write a name and a number above a row, on the color of the page, so that no line crosses them."""
    for x, text, align in ((0, shorten(left, 40), "left"), (1, right, "right")):
        where = {"xycoords": axes.get_yaxis_transform(), "va": "bottom", "ha": align}
        if text:
            axes.annotate(text, (x, place - 0.2), bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}, **where)


def _draw_row(axes, score, place, values, color, interval):
    dots = [score.scaled(value) for value in values]
    heights = [place + _DOTS[index % len(_DOTS)] for index in range(len(dots))]
    if len(dots) == 1:
        axes.plot(dots, [place + _MEAN], "o", ms=6.5, mfc=color, mec=PAPER, mew=0.8, zorder=3, clip_on=False)
        return
    axes.plot(dots, heights, "o", ms=4.5, color=color, alpha=0.5, mec="none", zorder=2, clip_on=False)
    if interval is not None:
        ends = [score.scaled(end) for end in interval]
        axes.plot(ends, [place + _MEAN] * 2, color=color, linewidth=2, solid_capstyle="butt", zorder=1)
        axes.plot([score.scaled(float(np.mean(values)))], [place + _MEAN], "D", ms=6.5, mfc=color, mec=PAPER, zorder=3)


def _limits(score, values):
    finite = [score.scaled(value) for value in values if math.isfinite(value)]
    if not finite:
        return 0, 1
    margin = 0.06 * (max(finite) - min(finite)) or 0.02 * abs(finite[0]) or 0.5
    return min(finite) - margin, max(finite) + margin


def _values(score, values):
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return f"{score.text(float(np.mean(values)), spread)}, " + (
        "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    )


def _caption(score, rows, reference):
    better = "" if score.higher_is_better else " Lower is better."
    line = "" if reference is None or not math.isfinite(reference) else " Dotted line: the teacher."
    if all(len(values) == 1 for _, values, _ in rows):
        return f"Dots: one run per model.{line}{better}"
    return f"Dots: one per seed. Diamond and bar: mean and its 95 % interval.{line}{better}"
