"""Sphinx extension that renders the Markdown of docstrings: `code`, fenced blocks, and examples."""

import re
from typing import Any

SECTION = re.compile(r"[A-Z][a-z]+:$")
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def to_restructured_text(lines: list[str]) -> list[str]:
    """Return the lines of a docstring in reStructuredText.

    Args:
        lines: Lines in which `code` has single backticks, blocks have fences of three backticks, and sections such as
            "Args:" may follow the text or precede their content without an empty line.
    """
    converted, block = [], False
    for line in lines:
        text = line.strip()
        if text.startswith("```"):
            block = not block
            indent = line[: len(line) - len(line.lstrip())]
            language = text[3:] or "text"
            converted += ["", f"{indent}.. code-block:: {language}", ""] if block else [""]
        elif block:
            converted.append(f"    {line}" if text else "")
        elif text.startswith((">>>", "...")):
            converted.append(line)
        else:
            # A list needs an empty line before it.
            if text.startswith("- ") and converted and converted[-1].strip()[:2] not in ("", "- "):
                converted.append("")
            converted.append(line)
    return CODE.sub(r"``\1``", "\n".join(converted)).split("\n")


def convert(app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring in place, before napoleon reads its sections."""
    lines[:] = to_restructured_text(lines)


def setup(app: Any) -> dict[str, bool]:
    # Napoleon's priority is 500.
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
