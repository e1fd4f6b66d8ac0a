"""HTML page that compares several runs."""

import itertools
import math
import pathlib

from keras_distill.experiment import verdict
from keras_distill.experiment.model_result import ModelResult
from keras_distill.experiment.results import Results
from keras_distill.experiment.table import Row
from keras_distill.report.score_plots import draw_dots
from keras_distill.report.summary import ratio_text
from keras_distill.report.svg import css_color
from keras_distill.report.tables import Table, typeset, without_empty_columns
from keras_distill.report.templates import relative_link, render_template, write_html
from keras_distill.utils.drawing import FIRST, OTHERS
from keras_distill.utils.formatting import UNKNOWN


def write_comparison_page(
    runs: dict[str, Results], path: str | pathlib.Path, links: dict[str, str] | None = None
) -> None:
    """Write one HTML file that compares the students of several runs.

    The page contains a table with a row per distilled model, the score of every seed, and the settings in which the
    runs differ. Like the page of one run, it needs neither scripts nor network.

    Args:
        runs: `{label: Results}`, two or more, in the order of the page. Labels are short, such as names of folders. A
            run without distilled models is represented by its baselines, or its teacher.
        path: Path of the file. Missing folders are created; an existing file is replaced.
        links: `{label: path of the run's report relative to the folder of this page}`. Defaults to no links.

    Raises:
        ValueError: If there are fewer than two runs, or `links` has other labels.

    Example:

    >>> from keras_distill.experiment import ModelResult, Results, Run
    >>> from keras_distill.report import write_comparison_page
    >>> runs = {}
    >>> for temperature, score in ((2.0, 0.95), (8.0, 0.96)):
    ...     models = [ModelResult("distilled", "distilled", 31_415, [Run(0, score)])]
    ...     settings = {"temperature": temperature}
    ...     runs[f"T = {temperature:g}"] = Results("Title", "Text.", settings, models, "python train.py", 12.5, [0])
    >>> write_comparison_page(runs, "comparison.html", {"T = 2": "t2/report.html", "T = 8": "t8/report.html"})
    """
    links = links or {}
    if len(runs) < 2:
        raise ValueError(f"A comparison needs two or more runs. Received: {list(runs)}")
    if unknown := sorted(set(links) - set(runs)):
        raise ValueError(f"`links` refers to unknown runs {unknown}. `runs` contains: {list(runs)}.")
    write_html(render_comparison(runs, links), path)


def render_comparison(runs: dict[str, Results], links: dict[str, str]) -> str:
    """Return the page as a string.

    Args:
        runs: `{label: Results}`.
        links: `{label: relative path of the report}`.
    """
    chosen = dict(zip(runs, itertools.cycle([FIRST["distilled"], FIRST["baseline"], *OTHERS])))
    students = [(label, model) for label, results in runs.items() for model in _students(results)]
    return render_template(
        "comparison.html.jinja",
        title="Comparison of " + (" and ".join(runs) if len(runs) == 2 else f"{len(runs)} runs"),
        titles=list(dict.fromkeys(results.title for results in runs.values())),
        different_data=_differs([(_data(results)) for results in runs.values()]),
        data=[(label, _data(results)) for label, results in runs.items()],
        table=_table(runs, students, chosen, links),
        dots=_dots(runs, students, chosen),
        settings=settings_table(runs, links),
        reports=[(label, relative_link(links[label])) for label in runs if label in links],
    )


def settings_table(runs: dict[str, Results], links: dict[str, str]) -> Table:
    """Return the settings that differ between runs, one row per run; values other than the first run's are marked.

    Settings are those of the results with seeds, versions, machine and evaluation split. A setting that a run does not
    have is unknown.

    Args:
        runs: `{label: Results}`.
        links: `{label: relative path of the report}`.
    """
    every = {label: _settings(results) for label, results in runs.items()}
    names = dict.fromkeys(name for settings in every.values() for name in settings)
    shown = [name for name in names if _differs([settings.get(name) for settings in every.values()])]
    rows = [[(label, ""), *((every[label].get(name, UNKNOWN), "") for name in shown)] for label in runs]
    addresses = [relative_link(links[label]) if label in links else "" for label in runs]
    places = itertools.product(range(len(rows)), range(1, len(shown) + 1))
    marked = frozenset((row, column) for row, column in places if rows[row][column] != rows[0][column])
    return Table(("run", *shown), rows, links=addresses, marked=marked)


def _students(results):
    by_role = {role: [model for model in results.models if model.role == role] for role in ("distilled", "baseline")}
    return by_role["distilled"] or by_role["baseline"] or results.models


def _name(runs, label, model):
    """Return the label of a run, with the name of the model if the run has several."""
    return label if len(_students(runs[label])) == 1 else f"{label}: {model.name}"


def _table(runs, students, chosen, links):
    scores = {results.score for results in runs.values()}
    heading = next(iter(scores)).name if len({score.name for score in scores}) == 1 else "score"
    headings = ("run", heading, "retained", "smaller", "faster", "gap recovered", "difference to the baseline", "p")
    rows = [_cells(runs[label], _name(runs, label, model), model) for label, model in students]
    addresses = [relative_link(links[label]) if label in links else "" for label, _ in students]
    return without_empty_columns(headings, rows, [css_color(chosen[label]) for label, _ in students], addresses)


def _cells(results: Results, name: str, model: ModelResult) -> list[tuple[str, str]]:
    (row,) = [row for row in results.table() if row.name == model.name]
    baseline, score = results.baseline(model), results.score
    comparison = None if baseline is None else results.comparison(model.name, baseline.name)
    seeds = "1 seed" if len(model.runs) == 1 else f"{len(model.runs)} seeds"
    named = score.text(row.score, row.spread)
    return [
        (name, results.title),
        (typeset(named), f"{score.name}, {seeds}"),
        (UNKNOWN if row.retained is None else typeset(f"{100 * row.retained:.1f} %"), ""),
        _ratio(row.compression),
        _ratio(row.speedup),
        _gap(row),
        (UNKNOWN, "") if comparison is None else (typeset(score.difference_text(comparison.difference)), baseline.name),
        (UNKNOWN if comparison is None or comparison.p is None else _p(comparison.p), ""),
    ]


def _ratio(ratio):
    return (UNKNOWN if ratio is None or not math.isfinite(ratio) else ratio_text(ratio), "")


def _gap(row: Row):
    if row.gap_recovered is None:
        return UNKNOWN, ""
    interval = "" if row.gap_interval is None else "{:.0f} to {:.0f} %".format(*(100 * end for end in row.gap_interval))
    return typeset(f"{100 * row.gap_recovered:.0f} %"), typeset(interval)


def _p(p):
    return verdict.p_text(p).removeprefix("p = ").removeprefix("p ")


def _dots(runs, students, chosen):
    """Draw one figure per kind of score, since scores of two kinds do not share an axis."""
    figures = []
    for score in dict.fromkeys(results.score for results in runs.values()):
        rows = [
            (_name(runs, label, model), [run.score for run in model.runs], chosen[label])
            for label, model in students
            if runs[label].score == score
        ]
        if rows:
            figures.append(draw_dots(score, rows))
    return figures


def _settings(results):
    settings = {name: str(value) for name, value in results.settings.items()}
    machine = {f"machine, {name}": _text(value) for name, value in results.machine.items()}
    versions = {f"version of {name}": version for name, version in results.versions.items()}
    return {**settings, "seeds": _text(results.seeds), "evaluation": _data(results), **machine, **versions}


def _data(results):
    return results.split if results.num_examples is None else f"{results.num_examples:,} {results.split} examples"


def _text(value):
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _differs(values):
    return any(value != values[0] for value in values)
