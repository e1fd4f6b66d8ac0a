"""Figures of hyperparameter searches, in the report and as PNGs."""

import dataclasses
import math

import numpy as np
import pytest

from keras_distill.experiment.results import Results
from keras_distill.experiment.verdict import verdict
from keras_distill.report import draw_search, search_plots
from keras_distill.report.page import render
from keras_distill.tuning.search import Hyperparameter, Trial
from tests.report import samples
from tests.report.pages import Page
from tests.report.samples import SPACE
from tests.report.samples import search as searched


def test_the_best_so_far_is_drawn_in_percent():
    search = searched()
    search.trials.append(Trial("04", {}, None, "failed"))
    figure = search_plots.best_so_far(search)
    (axes,) = figure.canvas.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([float(line.get_ydata()[0]) for line in dots], [80, 90, 85, 88])
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(steps.get_ydata(), [80, 90, 90, 90, 90])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "validation accuracy, %")
    assert "×" in figure.caption and "5 trials, 4 completed, 1 failed" in figure.alt
    assert "val_accuracy 0.9" in figure.alt


def test_the_lowest_loss_is_the_best():
    search = searched(scores=(0.8, 0.9, 0.3), direction="min", objective="val_loss")
    (axes,) = search_plots.best_so_far(search).canvas.axes
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(steps.get_ydata(), [0.8, 0.8, 0.3])
    assert axes.get_ylabel() == "validation loss"


def test_an_outlier_does_not_flatten_the_others():
    figure = search_plots.best_so_far(searched(scores=(0.1, 0.90, 0.88, 0.89, 0.89)))
    low, high = figure.canvas.axes[0].get_ylim()
    assert 80 < low < 88 and 90 < high < 91
    assert [line.get_marker() for line in figure.canvas.axes[0].lines][0] == "v"
    assert "Triangles: beyond the axis" in figure.caption


def test_lines_cross_the_axes_at_the_values():
    search = searched()
    figure = search_plots.parallel_coordinates(search)
    (axes,) = figure.canvas.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["temperature", "alpha", "optimizer", "sgd rate", "validation accuracy, %"]
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    best = search.ranked()[0]
    expected = [math.log2(best.values["temperature"]) / 4, best.values["alpha"], 0.5, 0.5, 1.0]
    np.testing.assert_allclose(lines[-1].get_xdata(), expected)
    assert lines[-1].get_linewidth() == max(line.get_linewidth() for line in lines)
    # The worst trial has the optimizer "adam", so that "sgd_rate" is not active.
    np.testing.assert_allclose(lines[0].get_xdata()[2:], [0, 0])
    assert [list(lines[place].get_ydata()) for place in (0, -1)] == [[0, 1, 2, 4], [0, 1, 2, 3, 4]]
    assert "Logarithmic: temperature, sgd rate." in figure.caption and "No dot" in figure.caption


def test_the_stronger_the_better():
    for direction, order in (("max", (0.8, 0.85, 0.9)), ("min", (0.9, 0.85, 0.8))):
        view = search_plots._ScoreView(searched(scores=order, direction=direction))
        opacities = [view.color(score)[3] for score in order]
        assert opacities == sorted(opacities) and opacities[0] < opacities[2] == 1


def test_one_against_another():
    search = searched()
    axes, bar = search_plots.one_against_another(search, "temperature", "alpha").canvas.axes
    drawn = sorted(tuple(dots.get_offsets()[0]) for dots in axes.collections)
    expected = sorted((trial.values["temperature"], trial.values["alpha"]) for trial in search.trials)
    np.testing.assert_allclose(drawn, expected)
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == (
        "temperature",
        "alpha",
        "validation accuracy, %",
    )
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


CASES = {
    "usual": lambda: searched(),
    "many": lambda: searched(scores=np.random.default_rng(1).uniform(0.8, 0.9, 60)),
    "one trial": lambda: searched(scores=(0.5,)),
    "all alike": lambda: searched(scores=(0.5, 0.5, 0.5)),
    "a loss": lambda: searched(scores=(2.5, 0.5, 1e9), direction="min", objective="val_supervised_loss"),
    "long names": lambda: searched(
        space=[*SPACE[:2], Hyperparameter("optimizer", choices=["adam", "sgd", "lion", *["a very long name"] * 3])]
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_figures_contain_all_artists_and_pngs_are_written(case, tmp_path):
    paths = draw_search(CASES[case](), tmp_path / "new")
    figures = search_plots.search_figures(CASES[case]())
    assert [path.name for path in paths] == [f"{name}.png" for name in figures]
    assert list(figures) == ["best_so_far", "parallel_coordinates", "temperature_against_alpha"]
    for path, figure in zip(paths, figures.values()):
        assert path.read_bytes().startswith(b"\x89PNG")
        (width, height), box = figure.canvas.get_size_inches(), figure.canvas.get_tightbbox()
        assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_no_completed_trial_gives_no_figures(tmp_path):
    assert draw_search(searched(scores=()), tmp_path) == []
    failed = searched(trials=[Trial("0", {}, None, "failed")])
    assert draw_search(failed, tmp_path) == [] and failed.rows() == []


def test_the_report_shows_the_search(tmp_path):
    search = searched(best_model="distilled", default_model="baseline")
    results = samples.results(seeds=2, shown=0, search=search)
    results.save(tmp_path / "results.json")
    loaded = Results.load(tmp_path / "results.json")
    assert loaded.search == search
    for each in (results, loaded):
        page = Page(render(each))
        assert "Hyperparameter search" in page.texts["h2"] and "The best 4 of 4 trials:" in " ".join(page.texts["p"])
        table = page.table("search")
        assert [row[0] for row in table] == [row[0] for row in search.rows()]
        assert table[0] == list(search.rows()[0])
        assert sum("4 trials, 4 completed" in svg["aria-label"] for svg in page.all("svg")) == 3
    assert "Hyperparameter search" not in Page(render(samples.results(seeds=2, shown=0))).texts["h2"]


def test_the_verdict_names_the_search():
    search = searched(best_model="distilled", default_model="baseline")
    assert verdict(samples.results(shown=0, search=search))[-1].startswith("Search over 4 trials: Clearly better")
    (sentence,) = verdict(samples.results(shown=0, search=dataclasses.replace(search, default_model=None)))
    assert sentence.startswith("Clearly better")


def test_a_search_of_unknown_models_raises():
    with pytest.raises(ValueError, match=r"`search` refers to unknown models \['nobody'\]"):
        samples.results(search=searched(best_model="nobody"))
