"""Pages from templates, each self-contained in one file."""

import itertools
import pathlib
import urllib.parse
from typing import Any

import jinja2
from markupsafe import Markup

from keras_distill.report.svg import inline_svg
from keras_distill.report.tables import capitalize, typeset
from keras_distill.utils.files import atomic_write
from keras_distill.utils.formatting import UNKNOWN


def render_template(name: str, **values: Any) -> str:
    """Render a page with all figures embedded: no scripts, no network, light and dark.

    Args:
        name: File of the template, such as "page.html.jinja".
        **values: Variables of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count(1)
    environment.globals["svg"] = lambda figure: Markup(inline_svg(figure, f"figure-{next(numbers)}-"))
    environment.globals["unknown"] = UNKNOWN
    environment.filters["typeset"] = typeset
    environment.filters["capitalize"] = capitalize
    return environment.get_template(name).render(values)


def write_html(page: str, path: str | pathlib.Path) -> None:
    """Write a page. Missing folders are created; an existing file is replaced.

    Args:
        page: Text of the page.
        path: Path of the file.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(page.encode())


def relative_link(path: str) -> str:
    """Return the address of a file relative to the page; "" for an absolute path or another scheme, such as https.

    Args:
        path: Path relative to the folder of the page.
    """
    path = str(path).replace("\\", "/")
    return "" if path.startswith("/") or urllib.parse.urlsplit(path).scheme else urllib.parse.quote(path)
