"""Report of an experiment: a self-contained HTML page and plots."""

from keras_distill.report.page import write_page
from keras_distill.report.search_plots import draw_search

__all__ = ["draw_search", "write_page"]
