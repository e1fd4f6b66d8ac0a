"""HTML page for all kinds of results: self-contained, well formed and accessible."""

import itertools
import math
import re
import string
import warnings

import numpy as np
import pytest

from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.results import Results
from keras_distill.experiment.score import Score
from keras_distill.report import write_page
from keras_distill.report.comparison import render_comparison
from keras_distill.report.page import render
from tests.report import samples
from tests.report.pages import Page

# Starts with text that matplotlib would reject as mathematics.
NASTY = '$\\x$ A < B & "C" > <script>alert(1)</script>'


def no_history(results):
    for model in results.models:
        for run in model.runs:
            run.history = {}
    return results


def no_confusions(results):
    for model in results.models:
        for run in model.runs:
            run.confusion = None
    return results


def one_confusion_missing(results):
    results.models[1].runs[0].confusion = None
    return results


def diverged(results):
    results.models[1].runs[0].history["loss"][-1] = math.nan
    results.models[2].runs[0].history["supervised_loss"] = [math.nan] * 12
    results.models[2].runs[0].history["val_accuracy"][3:] = []
    return results


def many_students(results):
    results.models += [
        ModelResult(f"a student with a long name, number {n}", "distilled", 99, [samples.run(0, 0.96)])
        for n in range(2)
    ]
    for example in results.examples:
        example.logits.update({model.name: example.logits["teacher"] for model in results.models})
    return results


def not_finite(results):
    for model in results.models:
        for run in model.runs[:1]:
            run.score = math.nan
            run.per_class = [math.nan] * len(results.classes)
    results.comparisons = samples.comparisons(results.models)
    return results


def bare(**changed):
    """Return results without any of the optional fields."""
    models = [ModelResult("student", "distilled", None, [Run(0, 0.5)])]
    return Results("Title", "", {}, models, "", 0.0, [], versions={}, machine={}, **changed)


def multi_label():
    random = np.random.default_rng(0)
    models = [
        ModelResult(
            name, role, 10, [Run(s, 0.6, per_class=random.uniform(size=4).tolist()) for s in range(2)], None, baselines
        )
        for name, role, baselines in (("a", "baseline", []), ("d", "distilled", ["a"]))
    ]
    return samples.results(list("wxyz"), models=models, examples=[], score=Score("macro F1"))


CASES = {
    "usual": lambda: samples.results(),
    "one seed": lambda: samples.results(seeds=1, shown=1),
    "twenty seeds": lambda: no_confusions(samples.results(seeds=20, shown=0)),
    "no history": lambda: no_history(samples.results(seeds=2, shown=0)),
    "one confusion missing": lambda: one_confusion_missing(samples.results(seeds=2, shown=0)),
    "diverged": lambda: diverged(no_confusions(samples.results(shown=0))),
    "not finite": lambda: not_finite(no_confusions(samples.results(seeds=3, shown=0))),
    "two classes": lambda: samples.results(classes=["no", "yes, and a long name of a class"], shown=1, temperature=1.0),
    "26 classes, in color": lambda: samples.results(
        classes=list(string.ascii_uppercase), shape=(96, 128, 3), shown=1, seeds=2
    ),
    "120 classes": lambda: samples.results(classes=[f"class {n}" for n in range(120)], shown=1, seeds=1),
    "eight models": lambda: samples.eight_models(15, 3),
    "weak teacher": lambda: no_confusions(samples.results(teacher=0.4, seeds=2, shown=0)),
    "perfect": lambda: samples.results(teacher=1.0, baseline=1.0, distilled=1.0, seeds=1, shown=0),
    "no teacher": lambda: no_confusions(samples.results(models=samples.results(shown=0).models[1:], examples=[])),
    "no baseline": lambda: samples.results(models=samples.results().models[:1], examples=[]),
    "many students": lambda: no_confusions(many_students(samples.results(shown=1, seeds=2))),
    "one epoch": lambda: samples.results(
        models=[ModelResult("distilled", "distilled", 9, [samples.run(0, 0.5, epochs=1)])], examples=[]
    ),
    "regression": lambda: samples.regression(),
    "multi-label": multi_label,
    "harmed": lambda: no_confusions(samples.results(distilled=0.93, findings=samples.findings(), shown=0)),
    "files and search": lambda: no_confusions(
        samples.results(
            profiles=samples.profiles(), search=samples.search(), shown=0, seeds=2, files={"model": "student.keras"}
        )
    ),
    "bare": bare,
    "nasty": lambda: samples.results(
        title=NASTY * 4,
        description=NASTY,
        command=NASTY,
        settings={NASTY: NASTY},
        classes=[NASTY, "b"],
        shown=1,
        files={NASTY: NASTY},
    ),
}
WITH_EXAMPLES = {
    "usual",
    "one seed",
    "two classes",
    "26 classes, in color",
    "eight models",
    "many students",
    "nasty",
    "120 classes",
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request, tmp_path_factory):
    """Return name of the case, its results and its page."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    results = CASES[request.param]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_page(results, path)
    return request.param, results, Page(path.read_text(encoding="utf-8"))


def check_page(page):
    """Check what every page must be: self-contained, well formed and accessible."""
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:")
        if tag == "a":
            assert not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|/", attributes["href"])
        else:
            assert attributes.get("href", "#").startswith(("#", "data:image/png;base64,"))
    (policy,) = [each for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids) > 0
    labels = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert labels <= set(ids)
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert page.texts["title"][0] == page.texts["h1"][0] != ""
    levels = [int(tag[1]) for tag, _ in page.elements if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for image in page.all("svg"):
        assert image["role"] == "img" and len(image["aria-label"]) > 10
    for image in page.all("img"):
        assert image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 10
        assert int(image["width"]) > 0 and int(image["height"]) > 0


def test_is_self_contained_well_formed_and_accessible(drawn):
    check_page(drawn[2])


def test_a_comparison_is_self_contained_well_formed_and_accessible():
    runs = {NASTY: CASES["nasty"](), "bare": bare(), "regression": samples.regression()}
    page = Page(render_comparison(runs, {NASTY: NASTY}))
    check_page(page)
    assert NASTY in page.texts["a"]


def test_rows_can_become_cards(drawn):
    _, _, page = drawn
    tables = page.all("table")
    assert len(tables) == len(page.tables)
    for table in tables:
        assert set(table["class"].split()) & {"phone", "tablet", "cards"} and table["role"] == "table"
        headings = page.headings(table["aria-labelledby"])
        for row in page.tables[table["aria-labelledby"]][1:]:
            assert [cell["data-label"] for cell in row[1:]] == headings[1:]


def test_nothing_scrolls_inside_the_page(drawn):
    _, _, page = drawn
    assert "tabindex" not in {name for _, each in page.elements for name in each}
    assert "overflow-x" not in render(bare()).partition("<style>")[2].partition("</style>")[0]


def test_sections_depend_on_the_contents(drawn):
    case, results, page = drawn
    headings, folded = page.texts["h2"], page.texts["h3"]
    histories = any(run.history for model in results.models for run in model.runs)
    assert ("Losses by term" in folded) == histories
    assert ("Learning curves" in folded) == (histories and case != "regression")
    confusions = any(model.confusion() is not None for model in results.models)
    assert ("Confusion matrices" in folded) == confusions
    assert ('Soft targets ("dark knowledge")' in headings) == (case in WITH_EXAMPLES)
    assert ("Diagnostics" in headings) == (case in {"harmed", "eight models"})
    assert ("Verdict" in headings) == bool(results.comparisons)
    students = [model.per_class() for model in results.models if model.role != "teacher"]
    per_class = any(scores is not None and np.isfinite(scores).any() for scores in students)
    assert ("Classes" in headings) == (per_class or confusions)
    assert ("Exported files" in headings) == ("Hyperparameter search" in headings) == (case == "files and search")
