"""HTML page: valid, self-contained, accessible, and the same after a round trip."""

import html.parser
import itertools
import math
import string
import warnings

import pytest

from keras_distill.report import ModelResult, Results, confusions, plots, write_page
from keras_distill.report.page import duration, render
from keras_distill.utils import drawing, soft_targets
from tests.report import samples

VOID = {"meta", "img", "br", "link"}
# Starts with text that matplotlib would reject as mathematics.
NASTY = '$\\x$ A < B & "C" > <script>alert(1)</script>'


class Page(html.parser.HTMLParser):
    """Parsed page: elements with their attributes, and the texts of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in {"h1", "h2", "h3", "p", "td", "th", "title", "dd", "pre", "li", "figcaption"}:
            self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> has no opening tag"

    def handle_data(self, data):
        for tag in self.open:
            if tag in self.texts:
                self.texts[tag][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


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


CASES = {
    "usual": lambda: samples.results(),
    "one seed": lambda: samples.results(seeds=1, shown=1),
    "no history": lambda: no_history(samples.results(seeds=2, shown=0)),
    "one confusion missing": lambda: one_confusion_missing(samples.results(seeds=2, shown=0)),
    "diverged": lambda: diverged(no_confusions(samples.results(shown=0))),
    "two classes": lambda: samples.results(classes=["no", "yes, and a long name of a class"], shown=1, temperature=1.0),
    "26 classes, in color": lambda: samples.results(
        classes=list(string.ascii_uppercase), shape=(96, 128, 3), shown=1, seeds=2
    ),
    "120 classes": lambda: samples.results(classes=[f"class {n}" for n in range(120)], shown=1, seeds=1),
    "weak teacher": lambda: no_confusions(samples.results(teacher=0.4, seeds=2, shown=0)),
    "perfect": lambda: samples.results(teacher=1.0, baseline=1.0, distilled=1.0, seeds=1, shown=0),
    "many students": lambda: no_confusions(many_students(samples.results(shown=1, seeds=2))),
    "one epoch": lambda: samples.results(
        models=[ModelResult("distilled", "distilled", 9, [samples.run(0, 0.5, epochs=1)])], examples=[]
    ),
    "nasty": lambda: samples.results(
        title=NASTY * 4, description=NASTY, command=NASTY, settings={NASTY: NASTY}, classes=[NASTY, "b"], shown=1
    ),
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request, tmp_path_factory):
    """Return name of the case, its page, and for each figure its size and the bounding box of its artists."""
    sizes, render = [], drawing.render_figure

    def measured(figure, *texts):
        rendered = render(figure, *texts)
        sizes.append((figure.get_size_inches(), figure.get_tightbbox()))
        return rendered

    path = tmp_path_factory.mktemp("page") / "report.html"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (plots, soft_targets, confusions):
            patch.setattr(module, "render_figure", measured)
        write_page(CASES[request.param](), path)
    return request.param, Page(path.read_text(encoding="utf-8")), sizes


def test_figures_contain_all_artists(drawn):
    _, page, sizes = drawn
    assert 0 < len(sizes) <= len(page.all("img"))
    for (width, height), box in sizes:
        assert width <= 7
        assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_images_are_embedded_and_have_alt_texts(drawn):
    _, page, _ = drawn
    for image in page.all("img"):
        assert image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 10
        assert int(image["width"]) > 0 and int(image["height"]) > 0
        assert "nan" not in image["src"][:30]


def test_needs_no_network(drawn):
    _, page, _ = drawn
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))


def test_is_well_formed(drawn):
    _, page, _ = drawn
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids) > 0
    assert all(
        attributes["aria-labelledby"] in ids for _, attributes in page.elements if "aria-labelledby" in attributes
    )
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert page.texts["title"][0] == page.texts["h1"][0] != ""
    levels = [int(tag[1]) for tag, _ in page.elements if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_tables_scroll_inside_their_own_box(drawn):
    _, page, _ = drawn
    for index, (tag, _) in enumerate(page.elements):
        if tag == "table":
            assert page.elements[index - 1][1]["class"] == "scroll"


def test_sections_depend_on_the_contents(drawn):
    case, page, _ = drawn
    headings = page.texts["h2"]
    assert ("Losses by term" in headings) == (case != "no history")
    assert ("Confusion matrices" in headings) == (case not in {"diverged", "weak teacher", "many students"})
    without = {"no history", "one confusion missing", "diverged", "weak teacher", "perfect", "one epoch"}
    assert ('Soft targets ("dark knowledge")' in headings) == (case not in without)


def page_of(results, folder):
    write_page(results, folder / "new" / "report.html")
    return Page((folder / "new" / "report.html").read_text(encoding="utf-8"))


def test_page_has_the_numbers(tmp_path):
    results = samples.results(shown=0)
    page = page_of(results, tmp_path)
    for row in results.table():
        assert row.name in page.texts["th"]
        assert set(row.cells()[1:]) <= set(page.texts["td"])
    assert page.texts["pre"] == [results.command]
    facts = set(page.texts["dd"])
    assert {"20 min 34 s", "0, 1, 2, 3, 4", results.machine["processor"], *results.versions.values()} <= facts
    assert {str(value) for value in results.settings.values()} <= facts
    assert "35\u00a0% fewer errors" in " ".join(page.texts["p"])


def test_texts_are_escaped(tmp_path):
    results = samples.results(title=NASTY, command=NASTY, settings={NASTY: 1}, classes=[NASTY, "b"], shown=1, seeds=1)
    page = page_of(results, tmp_path)
    assert page.texts["h1"] == page.texts["title"] == page.texts["pre"] == [NASTY]
    assert any(NASTY in image["alt"] for image in page.all("img"))
    assert not page.all("script")


def test_loaded_results_give_the_same_page(tmp_path):
    results = samples.results(seeds=1, shown=1)
    results.save(tmp_path / "results.json")
    write_page(results, tmp_path / "first.html")
    write_page(Results.load(tmp_path / "results.json"), tmp_path / "second.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.51, "4.5 s"), (123.4, "2 min 3 s"), (3599.9, "1 h 0 min"), (7325, "2 h 2 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_page_has_the_findings(tmp_path):
    results = samples.results(findings=samples.findings())
    page = render(results)
    assert "Diagnostics<" in page and "Teacher &#39;output&#39; holds &lt;probabilities&gt;." in page
    assert "add up to 1.0000" in page and "To do: Tap the layer before." in page
    assert page.count("No problems found") == 1
    assert "Diagnostics<" not in render(samples.results())
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").findings == samples.findings()
    with pytest.raises(ValueError, match="`findings` refers to unknown models \\['small'\\]"):
        samples.results(findings={"small": []})
