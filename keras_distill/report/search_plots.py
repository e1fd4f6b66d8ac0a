"""The figures of a hyperparameter search."""

import pathlib

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.scale import LogScale
from matplotlib.ticker import MaxNLocator, NullLocator

from keras_distill.utils.drawing import FIRST, figure, render_figure, shorten

# Pale for bad trials and dark for good ones; the best has a colour of its own.
BETTER = LinearSegmentedColormap.from_list("better", ["#CFD8DF", "#7FBCE0", "#0072B2", "#003B5C"])
BEST = "#D55E00"
# Of axes of scores: 84.0, 84.5, 85.0.
STEPS = [1, 2, 5, 10]


def search_pictures(search):
    """`{name: Picture}` of a `Search`; empty if no trial was completed."""
    if not search.ranked():
        return {}
    pictures = {"best_so_far": best_so_far(search), "parallel_coordinates": parallel_coordinates(search)}
    if {"temperature", "alpha"} <= {each.name for each in search.varied()}:
        pictures["temperature_against_alpha"] = one_against_another(search, "temperature", "alpha")
    return pictures


def draw_search(search, folder):
    """Writes the figures of a `Search` as PNGs.

    Args:
        search: A `Search`.
        folder: Where to, `best_so_far.png`, `parallel_coordinates.png` and, if both were searched,
            `temperature_against_alpha.png`; made if it is not there.

    Returns:
        The paths.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {folder / f"{name}.png": drawn for name, drawn in search_pictures(search).items()}
    for path, drawn in paths.items():
        path.write_bytes(drawn.png())
    return list(paths)


def best_so_far(search):
    """The score of each trial in the order in which they ended, and the best one up to there. Returns a `Picture`."""
    view = _View(search)
    most = max((trial.epochs or 0 for trial in search.trials), default=0)
    with figure(2.7) as drawn:
        axes = drawn.subplots()
        for number, trial in enumerate(search.trials, 1):
            if trial.state != "completed":
                axes.plot(number, 0.03, "x", color="#777777", ms=5, transform=axes.get_xaxis_transform())
                continue
            marker = "o" if view.shows(trial.score) else "v" if trial.score < view.low else "^"
            fill = "white" if trial.epochs is not None and trial.epochs < most else FIRST["distilled"]
            axes.plot(number, view.at(trial.score), marker, ms=4.5, mfc=fill, mec=FIRST["distilled"], mew=0.9)
        numbers = np.arange(1, len(search.trials) + 1)
        axes.step(numbers, view.at(search.best_so_far()), where="post", color=BEST, zorder=1)
        margin = 0.08 * (view.at(view.high) - view.at(view.low)) or 0.05
        axes.set(xlabel="trial", ylabel=view.label, xlim=(0.4, len(numbers) + 0.6))
        axes.set_ylim(view.at(view.low) - margin, view.at(view.high) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        said = ["Dots: the trials. Line: the best so far."]
        if any(trial.epochs not in (None, most) for trial in search.trials):
            said.append(f"Filled: trained for {most} epochs, the most; hollow: for fewer.")
        if any(not view.shows(trial.score) for trial in search.ranked()):
            said.append("Triangles: beyond the axis.")
        if any(trial.state != "completed" for trial in search.trials):
            said.append("×: over the budget, failed or unfinished.")
        return render_figure(drawn, _alt(search), " ".join(said))


def parallel_coordinates(search):
    """A line for each completed trial, across axes for hyperparameters and objective. Returns a `Picture`."""
    view, space, ranked = _View(search), search.varied(), search.ranked()
    with figure(0.4 + 0.5 * (len(space) + 1)) as drawn:
        axes = drawn.subplots()
        for place, trial in reversed(list(enumerate(ranked))):
            at = {
                row: each.position(trial.values[each.name])
                for row, each in enumerate(space)
                if each.name in trial.values
            }
            at[len(space)] = view.position(trial.score)
            first = {"color": BEST, "linewidth": 2.0, "markersize": 3.5}
            other = {"color": view.color(trial.score), "linewidth": 0.9, "markersize": 2}
            axes.plot(list(at.values()), list(at), "o-", clip_on=False, zorder=3, **(other if place else first))
        ends = [(0, f"{view.at(view.low):.4g}"), (1, f"{view.at(view.high):.4g}")]
        for row, ticks in enumerate([*map(_ticks, space), ends]):
            axes.axhline(row, color="#BBBBBB", linewidth=0.8, zorder=1)
            # What fits between two of them.
            length = max(2, 34 // max(len(ticks), 1))
            for x, text in ticks:
                align = "left" if x < 0.05 else "right" if x > 0.95 else "center"
                axes.annotate(
                    shorten(text, length),
                    (x, row + 0.14),
                    ha=align,
                    va="top",
                    fontsize=7,
                    color="#444444",
                    bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.4},
                    zorder=4,
                )
        names = [each.name.replace("_", " ") for each in space]
        axes.set_yticks(range(len(names) + 1), [shorten(name, 22) for name in [*names, view.label]])
        axes.tick_params(length=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(names) + 0.55, -0.3), xticks=[])
        axes.spines[:].set_visible(False)
        said = ["One line a trial, the darker the better; thick and red: the best."]
        logarithmic = [each.name.replace("_", " ") for each in space if each.logarithmic]
        said += [f"Logarithmic: {', '.join(logarithmic)}."] if logarithmic else []
        if any(each.name not in trial.values for each in space for trial in ranked):
            said.append("No dot: a trial has no such hyperparameter.")
        if any(not view.shows(trial.score) for trial in ranked):
            said.append(f"What is worse than the axis of {view.label} stands at its end.")
        return render_figure(drawn, _alt(search), " ".join(said))


def one_against_another(search, one, other):
    """The completed trials over two hyperparameters, coloured by score. Returns a `Picture`."""
    view = _View(search)
    ranked = [trial for trial in search.ranked() if {one, other} <= set(trial.values)]
    with figure(3.0) as drawn:
        axes = drawn.subplots()
        for place, trial in reversed(list(enumerate(ranked))):
            first = {"edgecolors": BEST, "linewidths": 2, "s": 80}
            ring = {"edgecolors": "white", "linewidths": 0.6, "s": 44} if place else first
            color = [view.color(trial.score)]
            axes.scatter(trial.values[one], trial.values[other], color=color, zorder=3, clip_on=False, **ring)
        axes.set(xlabel=one.replace("_", " "), ylabel=other.replace("_", " "))
        for axis, name in (("x", one), ("y", other)):
            _settle(axes, axis, next(each for each in search.space if each.name == name))
        axes.grid(True)
        axes.set_axisbelow(True)
        bar = drawn.colorbar(
            ScalarMappable(view.norm, view.colors), ax=axes, aspect=30, ticks=MaxNLocator(5, steps=STEPS)
        )
        bar.outline.set_visible(False)
        bar.set_label(view.label)
        return render_figure(drawn, _alt(search), "Dots: the trials. The ring is around the best one.")


class _View:
    """How the scores of a search are shown: in percent where they are accuracies, without the worst outliers."""

    def __init__(self, search):
        scores = np.array([trial.score for trial in search.ranked()])
        # As far below the best one as four times the median: a trial that learnt nothing would flatten all others.
        reach = 4 * abs(scores[0] - np.median(scores)) or np.inf
        self.low = max(scores.min(), scores[0] - reach)
        self.high = min(scores.max(), scores[0] + reach)
        accuracy = search.objective.endswith("accuracy")
        self.scale = 100 if accuracy else 1
        words = search.objective.replace("val_", "validation ").replace("_", " ")
        self.label = f"{words}, %" if accuracy else words
        self.norm = Normalize(self.at(self.low), self.at(self.high))
        self.colors = BETTER if search.direction == "max" else BETTER.reversed()

    def at(self, score):
        """Where a score is drawn."""
        return self.scale * np.clip(score, self.low, self.high)

    def position(self, score):
        """Where it lies between the ends, 0 to 1."""
        return float(self.norm(self.at(score))) if self.high > self.low else 0.5

    def shows(self, score):
        return self.low <= score <= self.high

    def color(self, score):
        return self.colors(self.norm(self.at(score)))


def _ticks(each):
    """`(position, text)` of the values named on a hyperparameter's axis."""
    if each.choices:
        return [(each.position(value), str(value)) for value in each.choices]
    ends = [(0, f"{each.low:.3g}"), (1, f"{each.high:.3g}")]
    if isinstance(each.low, int):
        # What lies between two integers may be none.
        return ends
    middle = (each.low * each.high) ** 0.5 if each.logarithmic else (each.low + each.high) / 2
    return [*ends, (0.5, f"{middle:.3g}")]


def _settle(axes, axis, each):
    """The scale and limits of an axis, "x" or "y", over a range."""
    if each.choices:
        return
    margin = 0.03 * (each.high - each.low)
    limits = (each.low - margin, each.high + margin)
    if each.logarithmic:
        # Powers of two where there are few of them: the next power of ten may be far.
        axes.set(**{f"{axis}scale": LogScale(axis, base=2 if each.high / each.low <= 64 else 10)})
        limits = (each.low / 1.06, each.high * 1.06)
        getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
        getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())
    axes.set(**{f"{axis}lim": limits})


def _alt(search):
    ranked = search.ranked()
    best = ", ".join(f"{heading} {cell}" for heading, cell in zip(search.headings(), search.rows(1)[0]))
    states = {state: sum(trial.state == state for trial in search.trials) for state in ("over budget", "failed")}
    others = "".join(f", {count} {state}" for state, count in states.items() if count)
    return f"{len(search.trials)} trials, {len(ranked)} completed{others}. The best: {best}."
