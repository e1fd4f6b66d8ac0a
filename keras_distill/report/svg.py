"""Figures as inline SVG, in the colors of the page."""

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG

from keras_distill.utils.drawing import FIRST, INK, LINE, OTHERS, PAPER, SOFT, Figure, style

# Variables of `style.css`, which differ in light and dark mode. Black is the color of the text.
_VARIABLES = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    PAPER: "var(--card)",
    FIRST["baseline"]: "var(--orange)",
    FIRST["distilled"]: "var(--blue)",
    **dict(zip(OTHERS, ("var(--green)", "var(--vermilion)", "var(--pink)", "var(--sky)", "var(--violet)"))),
}
_CSS = {color.lower(): variable for color, variable in _VARIABLES.items()}
# Texts stay texts. The salt makes the ids the same in every run.
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "keras_distill"}
_GEOMETRY = ("d", "x", "y", "width", "height", "transform")


def css_color(color: str) -> str:
    """Return the CSS color for a color of the figures.

    Args:
        color: "#RRGGBB". A color without a variable is returned as it is.
    """
    return _CSS.get(color.lower(), color)


def inline_svg(figure: Figure, prefix: str) -> str:
    """Return a figure as an SVG element for an HTML page, the same text for the same figure.

    The page must define the variables of `style.css` and chooses the font.

    Args:
        figure: A `Figure`.
        prefix: Start of all ids, such as "figure-1-"; another for each figure of a page.
    """
    buffer = io.BytesIO()
    with style(), matplotlib.rc_context(_SETTINGS):
        # Unlike `savefig`, this does not draw everything a second time to find the layout, which is final.
        FigureCanvasSVG(figure.canvas).print_svg(buffer, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _remove_unused(root)
    for element in root.iter():
        _simplify(element)
    _prefix_ids(root, prefix)
    _unwrap_groups(root)
    width, height = (f"{round(96 * inches)}" for inches in figure.canvas.get_size_inches())
    root.attrib = {"viewBox": root.attrib["viewBox"], "width": width, "height": height, "role": "img"}
    # Matplotlib leaves out black, its default.
    root.attrib |= {"aria-label": figure.alt, "fill": "currentColor", "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")


def _remove_unused(root):
    """Remove metadata, the style sheet, which would apply to the whole page, and shapes without a color."""
    for parent in list(root.iter()):
        for child in list(parent):
            tag = child.tag.rpartition("}")[2]
            only_style = tag == "defs" and all(each.tag.endswith("}style") for each in child)
            if tag == "metadata" or only_style or (tag == "path" and child.get("style") == "fill: none"):
                parent.remove(child)


def _simplify(element):
    """Remove namespaces, fonts, blanks and digits that no screen shows, and replace the colors."""
    element.tag = element.tag.rpartition("}")[2]
    element.attrib = {name.rpartition("}")[2]: " ".join(value.split()) for name, value in element.attrib.items()}
    element.text, element.tail = element.text if element.tag == "text" else None, None
    for name in _GEOMETRY:
        if name in element.attrib:
            element.attrib[name] = re.sub(r"-?\d+\.\d+(?!\d*e)", _two_digits, element.attrib[name])
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    if "style" in element.attrib:
        text = re.sub(r"#[0-9a-fA-F]{6}\b", lambda match: css_color(match[0]), element.attrib["style"])
        element.attrib["style"] = re.sub(r"font-family: [^;]*;? ?", "", text)


def _two_digits(match):
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _prefix_ids(root, prefix):
    """Prefix the ids that are referred to and remove the others."""
    references = [value for element in root.iter() for value in element.attrib.values()]
    used = {name for value in references for name in re.findall(r"^#(.+)|url\(#(.+?)\)", value) for name in name}
    for element in root.iter():
        identifier = element.attrib.pop("id", None)
        if identifier in used:
            element.attrib["id"] = prefix + identifier
        for name in ("href", "clip-path"):
            if name in element.attrib:
                element.attrib[name] = element.attrib[name].replace("#", f"#{prefix}").replace("base64, ", "base64,")


def _unwrap_groups(parent):
    """Replace each group without attributes by its children."""
    children = []
    for child in list(parent):
        _unwrap_groups(child)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    parent[:] = children
