"""Accuracy against what a file costs, with the front of those that no other beats."""

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from keras_distill.utils.drawing import colors, figure, render_figure
from keras_distill.utils.formatting import format_size, percent_with_spread


def footprint_pictures(results):
    """A `Picture` for bytes and one for latency, of the footprints in the `Results` that have both and accuracy."""
    costs = {
        "bytes on disk": (lambda each: each.bytes, format_size),
        "ms of one prediction, median": (lambda each: each.median, lambda value: f"{value:.3g}"),
    }
    drawn = []
    for label, (cost, written) in costs.items():
        points = [
            (number, each, cost(each))
            for number, each in enumerate(results.footprints, 1)
            if each.accuracies and cost(each) is not None
        ]
        if points:
            drawn.append(_against(results, points, label, written))
    return drawn


def pareto(points):
    """Places of the points that no other beats, cheapest first.

    Args:
        points: List of `(cost, accuracy)`. One beats another if it is at least as good in both and better in one.
    """
    front = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1] or points[place] == points[front[-1]]:
            front.append(place)
    return front


def _against(results, points, label, written):
    chosen = colors(results)
    front = pareto([(cost, each.accuracy) for _, each, cost in points])
    with figure(3.0) as drawn:
        axes = drawn.subplots()
        best = [points[place] for place in front]
        axes.step(
            [cost for *_, cost in best],
            [100 * each.accuracy for _, each, _ in best],
            where="post",
            color="#888888",
            linewidth=1.0,
            zorder=1,
        )
        for place, (number, each, cost) in enumerate(points):
            spread = None if each.spread is None else 100 * each.spread
            color = chosen[each.model]
            axes.errorbar(cost, 100 * each.accuracy, spread, color=color, elinewidth=1.0, capsize=2, zorder=2)
            fill, ink = (color, "white") if place in front else ("white", "#333333")
            axes.plot(cost, 100 * each.accuracy, "o", ms=11, mfc=fill, mec=color, mew=1.2, zorder=3)
            axes.annotate(
                number, (cost, 100 * each.accuracy), ha="center", va="center", fontsize=7.5, color=ink, zorder=4
            )
        axes.set(xscale="log", xlabel=label, ylabel="test accuracy, %")
        axes.margins(0.12, 0.15)
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5), numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.grid(True)
        axes.set_axisbelow(True)
        alt = f"Test accuracy against {label}. " + "; ".join(
            f"{number}: {each.model}, {each.format}, {written(cost)}, {percent_with_spread(each.accuracy, each.spread)}"
            for number, each, cost in points
        )
        caption = (
            "Numbers: the table's rows. Filled, and on the line: the Pareto front, files that no other beats in both. "
            "Better is up and to the left."
        )
        if any(each.spread is not None for _, each, _ in points):
            caption += " Bars: sample standard deviation over the seeds."
        return render_figure(drawn, alt + ".", caption)
