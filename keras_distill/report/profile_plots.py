"""Figures of accuracy against size and latency, with the Pareto front."""

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from keras_distill.experiment.results import Results
from keras_distill.utils.drawing import Figure, colors, figure, render_figure
from keras_distill.utils.formatting import format_size, percent_with_spread


def profile_figures(results: Results) -> list[Figure]:
    """Draw accuracy against file size and against latency.

    Args:
        results: A `Results`. Profiles without an accuracy or without the measured cost are left out.

    Returns:
        One `Figure` per kind of cost that some profile has.
    """
    costs = {
        "bytes on disk": (lambda profile: profile.bytes, format_size),
        "ms of one prediction, median": (lambda profile: profile.median, lambda value: f"{value:.3g}"),
    }
    figures = []
    for label, (cost, format_cost) in costs.items():
        points = [
            (number, profile, cost(profile))
            for number, profile in enumerate(results.profiles, 1)
            if profile.accuracies and cost(profile) is not None
        ]
        if points:
            figures.append(_scatter(results, points, label, format_cost))
    return figures


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """Return the indices of the points on the Pareto front, by increasing cost.

    Args:
        points: List of `(cost, accuracy)`. A point dominates another if it is at least as good in both and better in
            one.
    """
    front = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def _scatter(results, points, label, format_cost):
    chosen = colors(results)
    front = pareto([(cost, profile.accuracy) for _, profile, cost in points])
    with figure(3.0) as canvas:
        axes = canvas.subplots()
        best = [points[index] for index in front]
        axes.step(
            [cost for *_, cost in best],
            [100 * profile.accuracy for _, profile, _ in best],
            where="post",
            color="#888888",
            linewidth=1.0,
            zorder=1,
        )
        for index, (number, profile, cost) in enumerate(points):
            spread = None if profile.spread is None else 100 * profile.spread
            color = chosen[profile.model]
            axes.errorbar(cost, 100 * profile.accuracy, spread, color=color, elinewidth=1.0, capsize=2, zorder=2)
            fill, ink = (color, "white") if index in front else ("white", "#333333")
            axes.plot(cost, 100 * profile.accuracy, "o", ms=11, mfc=fill, mec=color, mew=1.2, zorder=3)
            axes.annotate(
                number, (cost, 100 * profile.accuracy), ha="center", va="center", fontsize=7.5, color=ink, zorder=4
            )
        axes.set(xscale="log", xlabel=label, ylabel="accuracy, %")
        axes.margins(0.12, 0.15)
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5), numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_cost(value)))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.grid(True)
        axes.set_axisbelow(True)
        return render_figure(canvas, _alt(points, label, format_cost), _caption(points))


def _alt(points, label, format_cost):
    texts = [
        f"{number}: {profile.model}, {profile.format}, {format_cost(cost)}, "
        f"{percent_with_spread(profile.accuracy, profile.spread)}"
        for number, profile, cost in points
    ]
    return f"Accuracy against {label}. {'; '.join(texts)}."


def _caption(points):
    caption = (
        "Numbers: rows of the table. Filled, and on the line: the Pareto front, files that no other file beats in both "
        "respects. Better is up and to the left."
    )
    if any(profile.spread is not None for _, profile, _ in points):
        caption += " Error bars: sample standard deviation over the seeds."
    return caption
