"""Sphinx extension with a directive that prints the help of every command, made by the parsers themselves."""

import argparse
import importlib
import os
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

# The help is wrapped at the width of a terminal.
os.environ["COLUMNS"] = "84"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of the program and those of its commands by name."""
    # `keras_distill.cli.main` is the function that the package exports.
    parser, commands = importlib.import_module("keras_distill.cli.main").make_parser()
    return {"keras-distill": parser} | {f"keras-distill {name}": each for name, each in commands.choices.items()}


class CommandLine(SphinxDirective):
    """Section per command with its help."""

    def run(self) -> list[nodes.Node]:
        sections = []
        for name, parser in parsers().items():
            section = nodes.section(ids=[nodes.make_id(name)], names=[name])
            section += nodes.title("", "", nodes.literal(text=name))
            section += nodes.literal_block(text=parser.format_help(), language="text")
            sections.append(section)
        return sections


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
