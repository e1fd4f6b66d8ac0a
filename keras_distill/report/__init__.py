"""Reports of experiments as HTML pages, and plots of a hyperparameter search."""

from typing import Any

__all__ = ["draw_search", "write_comparison_page", "write_page"]


def __getattr__(name: str) -> Any:
    """Import a function on first use: they need matplotlib and jinja2, which experiments do not."""
    try:
        if name == "write_page":
            from keras_distill.report.page import write_page as function
        elif name == "write_comparison_page":
            from keras_distill.report.comparison import write_comparison_page as function
        elif name == "draw_search":
            from keras_distill.report.search_plots import draw_search as function
        else:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"jinja2", "matplotlib", "PIL"}:
            raise
        raise ImportError(
            f"keras_distill.report needs {error.name}, which is not installed. "
            "Install it with: pip install matplotlib jinja2"
        ) from error
    return function
