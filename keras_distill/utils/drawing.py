"""Canvas of all figures: size, style, colors and rendering to PNG."""

import base64
import contextlib
import dataclasses
import io
import itertools
from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.figure

# Inches. A phone shows this width at nearly its natural size, so 9 pt stay 9 pt; a desktop shows two side by side.
WIDTH = 4.4

# Palette of Okabe and Ito, which readers with any color vision can tell apart; without its yellow, too pale on white.
# The first model of a role gets the color of the role, the others get the remaining colors.
FIRST = {"teacher": "#000000", "baseline": "#E69F00", "distilled": "#0072B2"}
OTHERS = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9")

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    # A "$" in a name is a dollar sign, not mathematics.
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A rendered figure.

    Attributes:
        source: The PNG as a data URI.
        width: CSS pixels at natural size.
        height: CSS pixels at natural size.
        alt: Alternative text, for readers who cannot see the figure.
        caption: Explanation below the figure. Empty for none.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""

    def png(self) -> bytes:
        """Return the content of the PNG file."""
        return base64.b64decode(self.source.partition(",")[2])


def colors(results: Any) -> dict[str, str]:
    """Return a color for each model of the results, the same in every figure.

    Args:
        results: Object with a list `models`, each of which has a `name` and a `role`, such as `report.Results`.

    Returns:
        `{name of the model: color as "#RRGGBB"}`. Beyond seven models colors repeat.
    """
    chosen, others, free = {}, itertools.cycle(OTHERS), dict(FIRST)
    for model in results.models:
        chosen[model.name] = free.pop(model.role, None) or next(others)
    return chosen


@contextlib.contextmanager
def figure(height: float) -> Iterator[matplotlib.figure.Figure]:
    """Open an empty matplotlib figure in the common style.

    Args:
        height: Inches. The width is `WIDTH`.

    Returns:
        A context manager that yields the matplotlib figure.
    """
    with matplotlib.rc_context(), matplotlib.style.context(["default", STYLE]):
        yield matplotlib.figure.Figure(figsize=(WIDTH, height), layout="constrained")


def render_figure(canvas: matplotlib.figure.Figure, alt: str, caption: str = "") -> Figure:
    """Render a matplotlib figure to PNG. Call it inside `with figure(...)`.

    Args:
        canvas: The matplotlib figure.
        alt: Alternative text, for readers who cannot see the figure.
        caption: Explanation below the figure. Defaults to "", none.

    Returns:
        The rendered `Figure`.
    """
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=220, facecolor="white")
    width, height = (round(96 * inches) for inches in canvas.get_size_inches())
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Figure(source, width, height, alt, caption)


def shorten(name: str, length: int) -> str:
    """Return a name of at most `length` characters, with an ellipsis where it was cut."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
