"""Sphinx extension with directives that read the package: formulas of a catalogue, and fields of dataclasses."""

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FENCE = re.compile(r"^( *)```\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
SECTION = re.compile(r"^(?:Args|Attributes):\n((?: +.*\n?)+)", re.MULTILINE)
# A field of a section, with its continuation lines.
FIELD = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def formula(value: type) -> str | None:
    """Return the formulas in a class's docstring or, if it has none, in those of the functions of its module."""
    module = inspect.getmodule(value)
    functions = [
        each for each in vars(module).values() if inspect.isfunction(each) and each.__module__ == module.__name__
    ]
    for group in ([value], functions):
        # `__doc__`, since `getdoc` returns a base class's docstring.
        found = [match for each in group for match in FENCE.findall(inspect.cleandoc(each.__doc__ or ""))]
        if found:
            return "\n\n".join(inspect.cleandoc(text) for _, text in found)
    return None


def fields(value: type) -> dict[str, str]:
    """Return `{field: description}` of a dataclass, as its docstring has it."""
    section = SECTION.search(inspect.cleandoc(value.__doc__))[1]
    return {name: " ".join(text.split()) for name, text in FIELD.findall(section)}


def inline(text: str) -> list[nodes.Node]:
    """Return text with `code` as nodes."""
    parts = CODE.split(text)
    return [nodes.literal(text=part) if index % 2 else nodes.Text(part) for index, part in enumerate(parts)]


class Formulas(SphinxDirective):
    """Formula of every class of a package that has one, by name: `{formulas} keras_distill.losses`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = importlib.import_module(self.arguments[0])
        shown = []
        for name in sorted(package.__all__):
            value = getattr(package, name)
            text = formula(value) if inspect.isclass(value) else None
            if text:
                block = nodes.literal_block(text=text, language="text")
                shown += [nodes.rubric("", "", nodes.literal(text=name)), block]
        return shown


class Fields(SphinxDirective):
    """Fields of a dataclass with their descriptions: `{fields} keras_distill.experiment.Results`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package, _, name = self.arguments[0].rpartition(".")
        described = fields(getattr(importlib.import_module(package), name))
        items = []
        for field, text in described.items():
            term = nodes.term("", "", nodes.literal(text=field))
            definition = nodes.definition("", nodes.paragraph("", "", *inline(text)))
            items.append(nodes.definition_list_item("", term, definition))
        return [nodes.definition_list("", *items)]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("formulas", Formulas)
    app.add_directive("fields", Fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
