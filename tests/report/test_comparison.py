"""Page that compares several runs."""

import pytest

from keras_distill.report import write_comparison_page
from keras_distill.report.comparison import render_comparison
from tests.report import samples
from tests.report.pages import Page


@pytest.fixture(scope="module")
def runs():
    machine = {"cores": 2, "processor": "one", "accelerators": []}
    settings = {"temperature": 2.0, "alpha": 0.1, "folds": None}
    return {
        "hot": samples.results(shown=0, settings={**settings, "temperature": 20.0}, machine=machine),
        "cold <b>": samples.results(shown=0, settings=settings, distilled=0.96, seeds=3, machine=machine),
        "once": samples.results(shown=0, settings={**settings, "more": "x"}, distilled=0.95, seeds=1, machine=machine),
    }


def test_every_run_has_a_row_with_its_numbers(runs):
    page = Page(render_comparison(runs, {}))
    assert page.headings("results")[1] == "accuracy"
    rows = page.table("results")
    assert [row[0] for row in rows] == list(runs)
    for row, results in zip(page.cards("results"), runs.values()):
        expected = results.table()[-1]
        assert row["accuracy"] == results.score.text(expected.score, expected.spread)
        assert row["retained"] == f"{100 * expected.retained:.1f} %"
        assert row["smaller"] == "38x" and row["faster"] == "10x"
        assert row["gap recovered"] == f"{100 * expected.gap_recovered:.0f} %"
        (comparison,) = results.comparisons
        assert row["difference to the baseline"] == f"{100 * comparison.difference:+.2f} points"
        assert row["p"] == (
            "–" if comparison.p is None else "< 0.001" if comparison.p < 0.001 else f"{comparison.p:.2g}"
        )


def test_only_settings_that_differ_are_shown(runs):
    page = Page(render_comparison(runs, {}))
    assert page.headings("settings") == ["run", "temperature", "seeds", "more"]
    assert page.table("settings") == [
        ["hot", "20.0", "0, 1, 2, 3, 4", "–"],
        ["cold <b>", "2.0", "0, 1, 2", "–"],
        ["once", "2.0", "0", "x"],
    ]
    marked = [[cell.get("class") == "marked" for cell in row] for row in page.tables["settings"][1:]]
    assert marked == [[False] * 4, [False, True, True, False], [False, True, True, True]]
    twice = Page(render_comparison({"a": runs["hot"], "b": runs["hot"]}, {}))
    assert "All recorded settings are the same." in twice.texts["p"]


def test_all_seeds_of_the_students_are_drawn(runs):
    page = Page(render_comparison(runs, {}))
    (label,) = [svg["aria-label"] for svg in page.all("svg")]
    assert "hot: " in label and "cold <b>: " in label and "5 seeds" in label and "1 seed" in label


def test_links_lead_to_the_reports(runs, tmp_path):
    links = {"hot": "runs/hot 1/report.html", "once": "javascript:alert(1)"}
    write_comparison_page(runs, tmp_path / "new" / "page.html", links)
    page = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert {link["href"] for link in page.all("a")} == {"runs/hot%201/report.html"}
    assert "hot" in page.texts["a"]


def test_other_data_are_pointed_out(runs):
    title = "The runs were evaluated on different data"
    assert title not in Page(render_comparison(runs, {})).texts["h2"]
    other = {**runs, "other": samples.results(shown=0, num_examples=450)}
    page = Page(render_comparison(other, {}))
    assert title in page.texts["h2"] and any("other: 450 test examples" in text for text in page.texts["p"])


def test_several_arms_and_scores():
    page = Page(render_comparison({"birds": samples.eight_models(5), "weather": samples.regression()}, {}))
    assert page.headings("results")[1] == "score"
    names = [row[0] for row in page.table("results")]
    assert names[0] == "birds: soft targets" and names[-1] == "weather" and len(names) == 6
    assert page.table("results", "note")[-1][1] == "RMSE, 10 seeds"
    assert len(page.all("svg")) == 2
    teacher = samples.results().models[:1]
    only_teacher = samples.results(models=teacher, examples=[])
    page = Page(render_comparison({"teacher": only_teacher, "both": samples.results(shown=0)}, {}))
    assert [row[0] for row in page.table("results")] == ["teacher", "both"]


def test_invalid_arguments_raise(runs, tmp_path):
    with pytest.raises(ValueError, match=r"needs two or more runs. Received: \['hot'\]"):
        write_comparison_page({"hot": runs["hot"]}, tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"`links` refers to unknown runs \['hat'\]"):
        write_comparison_page(runs, tmp_path / "page.html", {"hat": "report.html"})
