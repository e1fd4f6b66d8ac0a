"""Inline SVG of figures."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from keras_distill.report import class_plots, confusions, cost_plots, curves, knowledge, score_plots, search_plots
from keras_distill.report.svg import css_color, inline_svg
from keras_distill.utils import drawing
from tests.report import samples

SAMPLE = samples.results(seeds=2, shown=1, profiles=samples.profiles())
FIGURES = {
    "scores": lambda: [score_plots.score_dots(SAMPLE), *score_plots.difference_dots(SAMPLE)],
    "costs": lambda: [*cost_plots.model_figures(SAMPLE), *cost_plots.profile_figures(SAMPLE)],
    "classes": lambda: class_plots.class_figures(SAMPLE),
    "curves": lambda: [*curves.metric_curves(SAMPLE), *curves.loss_curves(SAMPLE)],
    "confusions": lambda: confusions.matrices(SAMPLE),
    "many confusions": lambda: confusions.matrices(samples.results([f"class {n}" for n in range(30)], 1, 0)),
    "soft targets": lambda: [card.bars for card in knowledge.cards(SAMPLE)],
    "search": lambda: list(search_plots.search_figures(samples.search()).values()),
}


def parsed(figure, prefix="f-"):
    return ElementTree.fromstring(inline_svg(figure, prefix))


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request):
    return FIGURES[request.param]()


def test_colors_follow_the_page(drawn):
    for figure in drawn:
        text = inline_svg(figure, "f-")
        text = re.sub(r'(aria-label|href|id)="[^"]*"', "", text)
        assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb\(|\bblack\b|\bwhite\b", text.replace("url(#f-", "url(")), text
        assert 'fill="currentColor"' in text


def test_ids_are_prefixed_and_references_lead_to_them(drawn):
    for figure in drawn:
        root = parsed(figure, "other-")
        ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert len(set(ids)) == len(ids) and all(name.startswith("other-") for name in ids)
        values = [value for element in root.iter() for name, value in element.attrib.items() if name != "aria-label"]
        references = [name for value in values for name in re.findall(r"^#(.+)|url\(#(.+?)\)", value)]
        assert {"".join(pair) for pair in references} == set(ids)


def test_is_an_image_with_an_alternative_text_and_no_foreign_parts(drawn):
    for figure in drawn:
        root = parsed(figure)
        assert root.attrib["role"] == "img" and root.attrib["aria-label"] == figure.alt
        assert {element.tag for element in root.iter()} <= {
            *("svg", "g", "path", "use", "text", "defs", "clipPath", "rect", "image"),
        }
        assert not any("font-family" in element.attrib.get("style", "") for element in root.iter())
        for image in root.iter("image"):
            assert image.attrib["href"].startswith("data:image/png;base64,iVBOR")


def test_is_the_same_in_every_run(drawn):
    for figure in drawn:
        assert inline_svg(figure, "f-") == inline_svg(figure, "f-")


def test_artists_are_inside(drawn):
    for figure in drawn:
        (width, height), box = figure.canvas.get_size_inches(), figure.canvas.get_tightbbox()
        assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_points_are_where_matplotlib_puts_them():
    with drawing.figure(2) as canvas:
        axes = canvas.subplots()
        axes.plot([0, 1], [0, 1], "o", color=drawing.FIRST["distilled"])
        figure = drawing.Figure(canvas, "Two <dots>.")
    root = parsed(figure)
    dots = [use for use in root.iter("use") if "--blue" in use.attrib["style"]]
    inches = figure.canvas.dpi_scale_trans.inverted().transform(axes.transData.transform([(0, 0), (1, 1)]))
    expected = [(72 * x, 72 * (2 - y)) for x, y in inches]
    np.testing.assert_allclose([(float(dot.attrib["x"]), float(dot.attrib["y"])) for dot in dots], expected, atol=0.01)
    assert root.attrib["viewBox"] == "0 0 288 144" and (root.attrib["width"], root.attrib["height"]) == ("384", "192")


def test_texts_stay_texts():
    with drawing.figure(1) as canvas:
        canvas.text(0.5, 0.5, "$5 & <b>  ü", fontweight="bold")
        figure = drawing.Figure(canvas, "alt")
    (text,) = parsed(figure).iter("text")
    assert text.text.split() == ["$5", "&", "<b>", "ü"] and "font-weight: 700" in text.attrib["style"]


def test_css_colors():
    assert css_color("#000000") == "currentColor" and css_color("#0072B2") == css_color("#0072b2") == "var(--blue)"
    assert css_color("#123456") == "#123456"
    palette = [*drawing.FIRST.values(), *drawing.OTHERS]
    assert len({css_color(color) for color in palette}) == len(palette)


def test_a_png_is_black_on_white():
    image = score_plots.score_dots(SAMPLE)
    assert image.png().startswith(b"\x89PNG")
