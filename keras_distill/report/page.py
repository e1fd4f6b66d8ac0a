"""HTML page of a report, self-contained in one file."""

import pathlib

import jinja2

from keras_distill.compression import profiling
from keras_distill.experiment.results import Results
from keras_distill.report import confusions, knowledge, plots
from keras_distill.report.profile_plots import profile_figures
from keras_distill.report.search_plots import search_figures
from keras_distill.report.table import HEADINGS
from keras_distill.report.verdict import CRITERION
from keras_distill.utils.drawing import colors
from keras_distill.utils.files import atomic_write


def write_page(results: Results, path: str | pathlib.Path) -> None:
    """Write the `Results` as one HTML file with all figures embedded: no scripts, no network, light and dark.

    Args:
        results: A `Results`, new or loaded.
        path: Path of the file, such as `report.html`. Missing folders are created; an existing file is replaced.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = render(results)
    with atomic_write(path) as file:
        file.write(page.encode())


def render(results: Results) -> str:
    """Return the page as a string.

    Args:
        results: A `Results`.
    """
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
        profile_headings=profiling.HEADINGS,
        profiles=[(chosen[profile.model], profile.cells(results.profiles[0])) for profile in results.profiles],
        profile_figures=profile_figures(results),
        search=None if results.search is None else list(search_figures(results.search).values()),
        without_history=[model.name for model in results.models if not any(run.history for run in model.runs)],
        cards=knowledge.cards(results),
        matrices=confusions.matrices(results),
        pair_headings=pair_headings,
        pair_rows=pair_rows,
        duration=duration(results.seconds),
    )


def duration(seconds: float) -> str:
    """Format a duration as `1 h 2 min`, `2 min 3 s` or `4.5 s`.

    Args:
        seconds: Duration in seconds.
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
