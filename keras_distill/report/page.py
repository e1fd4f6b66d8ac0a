"""HTML page of a report."""

import pathlib

from keras_distill.experiment import verdict
from keras_distill.experiment.results import Results
from keras_distill.report import confusions, curves, knowledge, predictions, summary, tables
from keras_distill.report.class_plots import class_figures
from keras_distill.report.cost_plots import model_figures, profile_figures
from keras_distill.report.score_plots import difference_dots, score_dots
from keras_distill.report.search_plots import search_figures
from keras_distill.report.templates import relative_link, render_template, write_html
from keras_distill.utils.formatting import duration


def write_page(results: Results, path: str | pathlib.Path) -> None:
    """Write the `Results` as one HTML file with all figures embedded: no scripts, no network, light and dark.

    Args:
        results: A `Results`, new or loaded.
        path: Path of the file, such as `report.html`. Missing folders are created; an existing file is replaced.
    """
    write_html(render(results), path)


def render(results: Results) -> str:
    """Return the page as a string.

    Args:
        results: A `Results`.
    """
    search = results.search
    return render_template(
        "page.html.jinja",
        title=results.title,
        results=results,
        arm=summary.main_arm(results),
        headlines=summary.headlines(results),
        harmed=[(each, verdict.evidence(results, each)) for each in summary.harmed(results)],
        findings=[(name, finding) for name, listed in results.findings.items() for finding in listed],
        checked=[(name, len(listed)) for name, listed in results.findings.items()],
        verdict=results.verdict(),
        criterion=verdict.CRITERION,
        table=tables.results_table(results),
        measurement=tables.measurement(results),
        comparisons=tables.comparisons_table(results),
        scores=[score_dots(results), *difference_dots(results)],
        costs=model_figures(results),
        classes=class_figures(results),
        pairs=tables.confusions_table(results),
        profiles=tables.profiles_table(results),
        profile_figures=profile_figures(results),
        search=None if search is None else tables.search_table(search),
        search_figures=[] if search is None else list(search_figures(search).values()),
        trials=0 if search is None else len(search.trials),
        cards=knowledge.cards(results),
        predictions=predictions.rows(results),
        metrics=curves.metric_curves(results),
        losses=curves.loss_curves(results),
        matrices=confusions.matrices(results),
        without_history=[model.name for model in results.models if not any(run.history for run in model.runs)],
        facts=_facts(results),
        files=[(name, path, relative_link(path)) for name, path in results.files.items()],
    )


def _facts(results):
    machine = results.machine
    facts = [
        ("seeds", ", ".join(map(str, results.seeds))),
        ("duration", duration(results.seconds)),
        ("date", results.date.replace("T", " ")),
        ("processor", machine.get("processor") or "unknown"),
        ("cores", machine.get("cores") or "unknown"),
        ("accelerators", ", ".join(machine.get("accelerators") or []) or "none"),
        (
            "evaluation",
            results.split if results.num_examples is None else f"{results.num_examples:,} {results.split} examples",
        ),
    ]
    return [(name, value) for name, value in facts if value != ""]
