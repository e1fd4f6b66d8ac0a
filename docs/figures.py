"""Draw the diagrams of README and of the site as SVG files in `docs/_static`.

    python docs/figures.py

The colors are readable on light and on dark backgrounds, and the background is transparent: one file serves both.
"""

import pathlib
from xml.sax.saxutils import escape

FOLDER = pathlib.Path(__file__).parent / "_static"
# Each has a contrast of at least 4 with white and with the dark page (#131416).
TEXT, TEACHER, STUDENT, LOSS = "#767b84", "#3d7fd1", "#c2630f", "#1f8a5b"
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"


class Drawing:
    """SVG with boxes, arrows and labels.

    Args:
        width: Width in units of the drawing.
        height: Height in the same units.
        title: Text alternative.
    """

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" font-family="{FONT}" font-size="14">',
            f"<title>{escape(title)}</title>",
        ]
        for color in (TEXT, TEACHER, STUDENT, LOSS):
            self.parts.append(
                f'<marker id="head{color[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
                f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
            )

    def box(self, x: float, y: float, width: float, height: float, color: str, *lines: str, dashed: bool = False):
        """Add a rounded rectangle with centered lines of text."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{color}" fill-opacity="0.12" '
            f'stroke="{color}" stroke-width="1.5"{dash}/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1)
        for index, line in enumerate(lines):
            self.label(x + width / 2, top + 18 * index + 5, line, color)

    def label(self, x: float, y: float, text: str, color: str = TEXT, anchor: str = "middle"):
        """Add a line of text."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>')

    def arrow(self, *points: tuple[float, float], color: str = TEXT, dashed: bool = False):
        """Add a line through points that ends in an arrowhead."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dash} '
            f'marker-end="url(#head{color[1:]})"/>'
        )

    def svg(self) -> str:
        """Return the file's text."""
        return "\n".join([*self.parts, "</svg>", ""])


def objective() -> Drawing:
    """Return the diagram of the objective: two models, three losses."""
    title = "Teacher and student get the same batch; three losses compare their logits, the labels and their features."
    drawing = Drawing(760, 330, title)
    drawing.box(10, 130, 90, 50, TEXT, "batch x")
    drawing.box(10, 270, 90, 40, TEXT, "labels y")
    for number in range(4):
        drawing.box(150 + 90 * number, 30, 74, 60, TEACHER, f"block_{number + 1}")
        if number:
            drawing.arrow((134 + 90 * number, 60), (149 + 90 * number, 60), color=TEACHER)
    for number in range(2):
        drawing.box(150 + 180 * number, 210, 74, 40, STUDENT, f"block_{number + 1}")
    drawing.arrow((224, 230), (329, 230), color=STUDENT)
    drawing.label(150, 20, "teacher, not trained", TEACHER, "start")
    drawing.label(150, 270, "student, trained", STUDENT, "start")
    drawing.arrow((100, 145), (125, 145), (125, 60), (149, 60))
    drawing.arrow((100, 165), (125, 165), (125, 230), (149, 230))
    drawing.box(276, 128, 182, 44, LOSS, "w · D(h(f_s), f_t)")
    drawing.label(285, 114, "features", LOSS, "end")
    drawing.arrow((347, 90), (347, 127), color=TEACHER, dashed=True)
    drawing.arrow((367, 210), (367, 173), color=STUDENT, dashed=True)
    drawing.arrow((494, 60), (525, 60), color=TEACHER)
    drawing.box(526, 40, 64, 40, TEACHER, "z_t")
    drawing.arrow((404, 230), (525, 230), color=STUDENT)
    drawing.box(526, 210, 64, 40, STUDENT, "z_s")
    drawing.box(500, 122, 250, 56, LOSS, "β · T² KL(p_t || p_s)", "soft targets, p = softmax(z / T)")
    drawing.arrow((558, 80), (558, 121), color=TEACHER, dashed=True)
    drawing.arrow((558, 210), (558, 179), color=STUDENT, dashed=True)
    drawing.box(620, 264, 130, 52, LOSS, "α · H(y, z_s)", "supervised loss")
    drawing.arrow((590, 230), (685, 230), (685, 263), color=STUDENT, dashed=True)
    drawing.arrow((100, 290), (619, 290), dashed=True)
    return drawing


def taps() -> Drawing:
    """Return the diagram of a term: two taps and a head."""
    drawing = Drawing(
        640, 250, "A term reads a layer of each model; a head maps the student's feature to the teacher's."
    )
    drawing.label(20, 24, "teacher", TEACHER, "start")
    drawing.label(20, 240, "student", STUDENT, "start")
    for number in range(4):
        drawing.box(20 + 130 * number, 36, 96, 40, TEACHER, f"block_{number + 1}")
        if number < 3:
            drawing.arrow((116 + 130 * number, 56), (149 + 130 * number, 56), color=TEACHER)
    for number in range(2):
        drawing.box(20 + 260 * number, 180, 96, 40, STUDENT, f"block_{number + 1}")
    drawing.arrow((116, 200), (279, 200), color=STUDENT)
    drawing.arrow((458, 76), (458, 108), (490, 108), color=TEACHER, dashed=True)
    drawing.label(450, 100, 'teacher="block_4"', TEACHER, "end")
    drawing.arrow((328, 180), (328, 151), color=STUDENT, dashed=True)
    drawing.label(318, 170, 'student="block_2"', STUDENT, "end")
    drawing.box(268, 116, 120, 34, STUDENT, "head", dashed=True)
    drawing.arrow((388, 133), (490, 133), color=STUDENT, dashed=True)
    drawing.box(491, 94, 136, 54, LOSS, "Hint()", "one value each")
    return drawing


def cache() -> Drawing:
    """Return the diagram of the teacher cache: label once, join in every epoch."""
    drawing = Drawing(640, 210, "The teacher labels the dataset once; each epoch joins the stored outputs by index.")
    drawing.label(20, 24, "once: label", TEACHER, "start")
    drawing.box(20, 36, 110, 44, TEXT, "dataset")
    drawing.arrow((130, 58), (189, 58))
    drawing.box(190, 36, 110, 44, TEACHER, "teacher")
    drawing.arrow((300, 58), (369, 58), color=TEACHER)
    drawing.box(370, 36, 250, 44, TEACHER, "cache: index, fingerprint, outputs")
    drawing.label(20, 120, "every epoch: join and train", STUDENT, "start")
    drawing.box(20, 132, 190, 54, TEXT, "dataset with indices,", "shuffled, augmented")
    drawing.arrow((210, 159), (279, 159))
    drawing.box(280, 132, 120, 54, LOSS, "join by index", "and verify")
    drawing.arrow((495, 80), (495, 106), (340, 106), (340, 131), color=TEACHER, dashed=True)
    drawing.arrow((400, 159), (489, 159), color=LOSS)
    drawing.box(490, 132, 130, 54, STUDENT, "student", "fit")
    return drawing


FIGURES = {"objective": objective, "taps": taps, "cache": cache}


def main() -> None:
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
