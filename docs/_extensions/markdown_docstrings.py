"""Sphinx extension that renders the Markdown of docstrings (`code`, fenced blocks, examples), and signatures."""

import inspect
import itertools
import re
from typing import Any

CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def to_restructured_text(lines: list[str]) -> list[str]:
    """Return the lines of a docstring in reStructuredText.

    Args:
        lines: Lines in which `code` has single backticks, blocks have fences of three backticks, and sections such as
            "Args:" may follow the text or precede their content without an empty line.
    """
    converted: list[tuple[bool, str]] = []  # (is text, line)
    block = False
    for line in lines:
        text = line.strip()
        if text.startswith("```"):
            block = not block
            indent = line[: len(line) - len(line.lstrip())]
            opened = ["", f"{indent}.. code-block:: {text[3:] or 'text'}", ""]
            converted += [(False, each) for each in (opened if block else [""])]
        elif block:
            converted.append((False, f"    {line}" if text else ""))
        elif text == "Example:":
            # Napoleon would expect that the example is indented.
            converted += [(False, each) for each in ("", ".. rubric:: Example", "")]
        elif text.startswith((">>>", "...")):
            converted.append((False, line))
        else:
            # A list needs an empty line before it.
            if text.startswith("- ") and converted and converted[-1][1].strip()[:2] not in ("", "- "):
                converted.append((True, ""))
            converted.append((True, line))
    result = []
    for is_text, group in itertools.groupby(converted, key=lambda pair: pair[0]):
        joined = "\n".join(line for _, line in group)
        # Code may continue on the next line.
        result += (CODE.sub(r"``\1``", joined) if is_text else joined).split("\n")
    return result


def convert(app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring in place, before napoleon reads its sections."""
    lines[:] = to_restructured_text(lines)


def signature(app: Any, kind: str, name: str, value: Any, options: Any, text: str, returns: str) -> tuple | None:
    """Return the signature of a class's `__init__`, where autodoc takes the `(*args, **kwargs)` of Keras' `__new__`."""
    if kind != "class" or "__init__" not in vars(value) or text != "(*args, **kwargs)":
        return None
    _, *parameters = inspect.signature(value.__init__).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain)), None


def setup(app: Any) -> dict[str, bool]:
    # Napoleon's priority is 500.
    app.connect("autodoc-process-docstring", convert, priority=400)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
