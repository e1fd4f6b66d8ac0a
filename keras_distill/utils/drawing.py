"""Canvas of all figures: size, style and colors."""

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.figure

# Inches. A phone shows this width at nearly its natural size, so 9 pt stay 9 pt; a desktop shows two side by side.
WIDTH = 4.0

# Text and lines. A page replaces these colors in dark mode, so figures use no other grays.
INK, SOFT, LINE, PAPER = "#000000", "#5B5F63", "#D9D9D6", "#FFFFFF"
# Steps of ticks on an axis of scores: 84.0, 84.5, 85.0.
STEPS = [1, 2, 5, 10]
# Palette of Okabe and Ito, which readers with any color vision can tell apart; without its yellow, too pale on white,
# and with a violet. The first model of a role gets the color of the role, the others get the remaining colors.
FIRST = {"teacher": INK, "baseline": "#E69F00", "distilled": "#0072B2"}
OTHERS = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7B4EA8")

_STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    # A "$" in a name is a dollar sign, not mathematics.
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure with its texts.

    Attributes:
        canvas: The finished matplotlib figure, drawn and passed inside `figure`. Its layout is final.
        alt: Alternative text, for readers who cannot see the figure.
        caption: Explanation below the figure. Defaults to "", none.
    """

    canvas: matplotlib.figure.Figure
    alt: str
    caption: str = ""

    def __post_init__(self):
        # The layout starts from the one before, so that a second drawing would differ from the first.
        self.canvas.draw_without_rendering()
        self.canvas.set_layout_engine("none")

    def png(self) -> bytes:
        """Return the content of a PNG file, black on white."""
        buffer = io.BytesIO()
        with style():
            self.canvas.savefig(buffer, format="png", dpi=220, facecolor=PAPER)
        return buffer.getvalue()


def colors(results: Any) -> dict[str, str]:
    """Return a color for each model of the results, the same in every figure.

    Args:
        results: Object with a list `models`, each of which has a `name` and a `role`, such as `experiment.Results`.

    Returns:
        `{name of the model: color as "#RRGGBB"}`. Beyond eight models colors repeat.
    """
    chosen, others, free = {}, itertools.cycle(OTHERS), dict(FIRST)
    for model in results.models:
        chosen[model.name] = free.pop(model.role, None) or next(others)
    return chosen


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Open a scope in which matplotlib draws in the common style, whatever the settings of the process."""
    with matplotlib.rc_context(), matplotlib.style.context(["default", _STYLE]):
        yield


@contextlib.contextmanager
def figure(height: float) -> Iterator[matplotlib.figure.Figure]:
    """Open an empty matplotlib figure in the common style.

    Args:
        height: Inches. The width is `WIDTH`.

    Returns:
        A context manager that yields the matplotlib figure.
    """
    with style():
        yield matplotlib.figure.Figure(figsize=(WIDTH, height), layout="constrained")


def shorten(name: str, length: int) -> str:
    """Return a name of at most `length` characters. An ellipsis replaces the middle: names often share their start.

    Args:
        name: A name.
        length: Largest number of characters, >= 3.
    """
    if len(name) <= length:
        return name
    end = (length - 1) // 3
    return f"{name[: length - 1 - end].rstrip()}…{name[len(name) - end :].lstrip()}"
