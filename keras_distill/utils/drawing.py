"""What every figure of a report shares: size, colours and the way to PNG."""

import base64
import contextlib
import dataclasses
import io
import itertools

import matplotlib
import matplotlib.figure

# Inches. A phone shows this width at nearly its natural size, so 9 pt stay 9 pt; a desktop shows two side by side.
WIDTH = 4.4

# Okabe and Ito's palette, which readers with any colour vision tell apart; without its yellow, too pale on white.
# The first model of a role has the role's colour, the others take what is left.
FIRST = {"teacher": "#000000", "alone": "#E69F00", "distilled": "#0072B2"}
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
    # A "$" in a name is a dollar, not mathematics.
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        source: The PNG as a data URI.
        width, height: CSS pixels at natural size.
        alt: What it shows, for those who do not see it.
        caption: What to know to read it.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""

    def png(self):
        """The file itself, bytes."""
        return base64.b64decode(self.source.partition(",")[2])


def colors(results):
    """`{name of a model: its colour}`, the same in every figure; beyond seven models colours repeat."""
    chosen, others, free = {}, itertools.cycle(OTHERS), dict(FIRST)
    for model in results.models:
        chosen[model.name] = free.pop(model.role, None) or next(others)
    return chosen


@contextlib.contextmanager
def figure(height):
    """A `Figure` of the report's width, `height` inches tall, drawn in the report's style."""
    with matplotlib.rc_context(), matplotlib.style.context(["default", STYLE]):
        yield matplotlib.figure.Figure(figsize=(WIDTH, height), layout="constrained")


def render_figure(drawn, alt, caption=""):
    """The `Figure` drawn with matplotlib; call it inside `with figure(...)`."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=220, facecolor="white")
    width, height = (round(96 * inches) for inches in drawn.get_size_inches())
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Figure(source, width, height, alt, caption)


def shorten(name, length):
    """The name, cut to `length` characters."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
