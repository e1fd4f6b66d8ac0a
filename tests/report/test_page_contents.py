"""Contents of the page: numbers, sentences, links and findings."""

import pytest

from keras_distill.experiment.results import Results
from keras_distill.report import write_page
from keras_distill.report.page import duration, render
from keras_distill.report.templates import relative_link
from tests.report import samples
from tests.report.pages import Page, plain
from tests.report.test_page import NASTY, bare, no_confusions, no_history


def page_of(results, folder):
    write_page(results, folder / "new" / "report.html")
    return Page((folder / "new" / "report.html").read_text(encoding="utf-8"))


def test_page_has_the_numbers(tmp_path):
    results = samples.results(shown=0)
    page = page_of(results, tmp_path)
    assert [row[0] for row in page.table("results")] == [model.name for model in results.models]
    for card, row in zip(page.cards("results"), results.table()):
        assert card["accuracy"] == results.score.text(row.score, row.spread)
        assert card["parameters"] == f"{row.parameters:,}" and card["ms/example"] == f"{row.latency:.3g}"
        assert card["agreement"] == f"{100 * row.agreement:.2f} %"
        assert card["speed-up"] == ("–" if row.speedup is None else f"{row.speedup:.1f}x")
        assert card["accuracy retained"] == ("–" if row.retained is None else f"{100 * row.retained:.1f} %")
        assert card["gap recovered"] == ("–" if row.gap_recovered is None else f"{100 * row.gap_recovered:.0f} %")
    (comparison,) = results.comparisons
    (card,) = page.cards("comparisons")
    assert card["difference in accuracy"] == f"{100 * comparison.difference:+.2f} points"
    assert page.texts["pre"] == [results.command]
    facts = set(page.texts["dd"])
    assert {"20 min 34 s", "0, 1, 2, 3, 4", results.machine["processor"], *results.versions.values()} <= facts
    assert {str(value) for value in results.settings.values()} <= facts
    assert "10,000 test examples" in facts
    distilled = results.table()[2]
    expected = [f"{100 * distilled.retained:.1f} %", "38x", "10x", f"{100 * distilled.gap_recovered:.0f} %"]
    assert [fact for fact in page.texts["dd"] if fact in expected] == expected
    (sentence,) = results.verdict()
    assert sentence in [plain(text) for text in page.texts["p"]]


def test_regression_has_its_unit(tmp_path):
    results = samples.regression()
    page = page_of(results, tmp_path)
    for card, row in zip(page.cards("results"), results.table()):
        assert card["RMSE"] == results.score.text(row.score, row.spread) and card["RMSE"].endswith("°C")
    assert "RMSE, size and latency" in page.texts["h2"]
    assert not any("accuracy" in text.lower() for texts in page.texts.values() for text in texts)


def test_texts_are_escaped(tmp_path):
    results = samples.results(
        title=NASTY, command=NASTY, settings={NASTY: 1}, classes=[NASTY, "b"], shown=1, seeds=1, files={NASTY: NASTY}
    )
    page = page_of(results, tmp_path)
    assert page.texts["h1"] == page.texts["title"] == page.texts["pre"] == [NASTY]
    assert any(NASTY in image["alt"] for image in page.all("img"))
    assert any(NASTY in image["aria-label"] for image in page.all("svg"))
    assert not page.all("script") and NASTY in page.texts["a"]


def test_long_verdicts_are_folded():
    results = no_history(no_confusions(samples.eight_models(4)))
    page = Page(render(results))
    sentences = results.verdict()
    assert len(sentences) == 10 and "6 more" in page.texts["summary"]
    shown = [plain(text) for text in page.texts["p"]]
    assert all(sentence in shown for sentence in sentences)


def test_students_that_got_worse_are_named_on_top():
    page = Page(render(no_history(no_confusions(samples.results(distilled=0.93, shown=0)))))
    assert page.texts["h2"][0] == "Diagnostics" and page.texts["strong"] == [
        "“distilled” is clearly worse than “baseline”"
    ]
    (box,) = [each for each in page.all("section") if each.get("aria-labelledby") == "diagnostics"]
    assert "problem" in box["class"].split()
    assert page.texts["h2"][1] == "Verdict" and page.texts["h2"][2].startswith("Summary")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("models/student.keras", "models/student.keras"),
        ("my models/a#b?c.keras", "my%20models/a%23b%3Fc.keras"),
        ("a\\b.csv", "a/b.csv"),
        ("../other/x", "../other/x"),
        ("javascript:alert(1)", ""),
        ("https://example.com/x", ""),
        ("//example.com/x", ""),
        ("/etc/passwd", ""),
        ("C:\\models\\x", ""),
    ],
)
def test_only_relative_paths_become_links(path, address):
    assert relative_link(path) == address
    page = Page(render(bare(files={"a file": path})))
    assert [link["href"] for link in page.all("a")] == ([address] if address else [])
    assert any(path in text for text in page.texts["li"])


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
    results = no_history(no_confusions(samples.results(findings=samples.findings(), shown=0)))
    page = Page(render(results))
    assert page.texts["h2"][0] == "Diagnostics"
    (box,) = [each for each in page.all("section") if each.get("aria-labelledby") == "diagnostics"]
    assert "warning" in box["class"].split()
    finding = samples.findings()["distilled"][0]
    text = page.texts["p"][1]
    assert text.startswith(f"distilled: {finding.what}") and finding.advice in text and finding.seen in text
    assert {"baseline: no problems found", "distilled: 1 problem"} <= set(page.texts["li"])
    assert "Diagnostics" not in Page(render(bare())).texts["h2"]
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").findings == samples.findings()
