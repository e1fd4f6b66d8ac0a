"""The page of a report: one file of HTML that needs nothing else."""

import pathlib

import jinja2

from keras_distill.compression import profiling
from keras_distill.report import confusions, knowledge, plots
from keras_distill.report.footprint_plots import footprint_pictures
from keras_distill.report.search_plots import search_pictures
from keras_distill.report.table import HEADINGS
from keras_distill.report.verdict import CRITERION
from keras_distill.utils.drawing import colors


def write_page(results, path):
    """Writes the `Results` as a page with all figures inside: no scripts, no network, light and dark.

    Args:
        results: A `Results`, fresh or loaded.
        path: Where to, `report.html`; missing folders are made.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results), encoding="utf-8")


def render(results):
    """The page as a string."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    chosen = colors(results)
    pair_headings, pair_rows = confusions.frequent(results)
    return environment.get_template("page.html.jinja").render(
        results=results,
        chosen=chosen,
        verdict=results.verdict(),
        criterion=CRITERION if any(len(model.runs) > 1 for model in results.models) else "",
        headings=HEADINGS,
        rows=[(chosen[row.name], row.cells()) for row in results.table()],
        accuracy=plots.accuracy_bars(results),
        metrics=plots.metric_curves(results),
        losses=plots.loss_curves(results),
        footprint_headings=profiling.HEADINGS,
        footprints=[(chosen[each.model], each.cells(results.footprints[0])) for each in results.footprints],
        footprint_pictures=footprint_pictures(results),
        search=None if results.search is None else list(search_pictures(results.search).values()),
        without_history=[model.name for model in results.models if not any(run.history for run in model.runs)],
        cards=knowledge.cards(results),
        matrices=confusions.matrices(results),
        pair_headings=pair_headings,
        pair_rows=pair_rows,
        duration=duration(results.seconds),
    )


def duration(seconds):
    """`1 h 2 min`, `2 min 3 s` or `4.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
