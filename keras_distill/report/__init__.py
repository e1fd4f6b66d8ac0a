"""The report of a distillation run: its numbers as JSON and as a page of HTML."""

from keras_distill.report.results import Example, ModelResult, Results, Run
from keras_distill.report.search import Search, read_search
from keras_distill.report.table import Row

__all__ = ["Example", "ModelResult", "Results", "Row", "Run", "Search", "draw_search", "read_search", "write_page"]


def __getattr__(name):
    """What draws; it needs packages that numbers can do without."""
    try:
        if name == "write_page":
            from keras_distill.report.page import write_page as found
        elif name == "draw_search":
            from keras_distill.report.search_plots import draw_search as found
        else:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"jinja2", "matplotlib", "PIL"}:
            raise
        raise ImportError(
            f"keras_distill.report needs {error.name}, which is not installed. "
            'Install it with: pip install "keras-distill[recipes]"'
        ) from error
    return found
