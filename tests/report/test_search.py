"""Hyperparameter searches: reading the files of KerasTuner, and figures in the report and as PNGs."""

import dataclasses
import json
import math

import keras_tuner
import numpy as np
import pytest

from keras_distill.report import Results, Search, draw_search, read_search, search_plots, write_page
from keras_distill.report.search import Hyperparameter, Trial
from keras_distill.report.verdict import verdict
from keras_distill.utils import drawing
from tests.report import samples

SPACE = [
    Hyperparameter("temperature", 1.0, 16.0, True),
    Hyperparameter("alpha", 0.0, 1.0),
    Hyperparameter("optimizer", choices=["adam", "sgd", "lion"]),
    Hyperparameter("sgd_rate", 0.01, 1.0, True),
]


def searched(scores=(0.80, 0.90, 0.85, 0.88), direction="max", space=SPACE, **changed):
    random = np.random.default_rng(0)
    trials = []
    for number, score in enumerate(scores):
        values = {"temperature": float(2 ** random.uniform(0, 4)), "alpha": float(random.uniform())}
        values["optimizer"] = ["adam", "sgd", "lion"][number % 3]
        values |= {"sgd_rate": 0.1} if values["optimizer"] == "sgd" else {}
        trials.append(Trial(f"{number:02d}", values, score))
    return Search(**{"objective": "val_accuracy", "direction": direction, "space": space, "trials": trials} | changed)


@pytest.fixture
def figures(monkeypatch):
    drawn, render = [], drawing.render_figure

    def recorded(figure, *texts):
        drawn.append(figure)
        return render(figure, *texts)

    monkeypatch.setattr(search_plots, "render_figure", recorded)
    return drawn


class Lottery(keras_tuner.HyperModel):
    """Search space without models, for a tuner with known scores."""

    def build(self, hp):
        hp.Float("temperature", 1.0, 16.0, sampling="log")
        hp.Choice("optimizer", ["adam", "sgd"])
        hp.Boolean("hint")
        hp.Int("depth", 2, 4)
        hp.Fixed("batch", 32)
        with hp.conditional_scope("optimizer", ["sgd"]):
            hp.Float("rate", 0.1, 1.0)


class Tuner(keras_tuner.RandomSearch):
    def run_trial(self, trial, **kwargs):
        number = int(trial.trial_id)
        if number == 2:
            raise ValueError("no luck")
        return {"val_accuracy": [0.5, 0.75, None, 0.625, 0.99][number], "over_budget": float(number == 4)}


@pytest.fixture
def tuner(tmp_path):
    tuner = Tuner(Lottery(), keras_tuner.Objective("val_accuracy", "max"), 5, seed=0, directory=tmp_path)
    tuner.search(verbose=0)
    return tuner


def test_reads_the_files_of_keras_tuner(tuner):
    search = read_search(tuner.project_dir, tuner.oracle.objective.name)
    assert search.direction == "max" and [trial.name for trial in search.trials] == ["0", "1", "2", "3", "4"]
    assert [trial.score for trial in search.trials] == [0.5, 0.75, None, 0.625, 0.99]
    assert [trial.state for trial in search.trials] == [*["completed"] * 2, "failed", "completed", "over budget"]
    assert search.trials[2].reason == "ValueError: no luck"
    assert search.space == [
        Hyperparameter("temperature", 1.0, 16.0, True),
        Hyperparameter("optimizer", choices=["adam", "sgd"]),
        Hyperparameter("hint", choices=[False, True]),
        Hyperparameter("depth", 2, 4),
        Hyperparameter("batch", choices=[32]),
        Hyperparameter("rate", 0.1, 1.0),
    ]
    for trial in search.trials:
        assert trial.values == tuner.oracle.get_trial(trial.name).hyperparameters.values
        assert ("rate" in trial.values) == (trial.values["optimizer"] == "sgd")
    assert [each.name for each in search.varied()] == ["temperature", "optimizer", "hint", "depth", "rate"]
    assert [trial.name for trial in search.ranked()] == ["1", "3", "0"]
    np.testing.assert_array_equal(search.best_so_far(), [0.5, 0.75, 0.75, 0.75, 0.75])
    # Any metric of the trials, with its direction.
    over = read_search(tuner.project_dir, "over_budget")
    assert over.direction == "min" and over.trials[0].score == 0


def test_missing_search_or_metric_raises(tuner, tmp_path):
    with pytest.raises(ValueError, match="contains no search of KerasTuner"):
        read_search(tmp_path, "val_accuracy")
    with pytest.raises(ValueError, match=r"has the metric 'val_acc'. Available: \['over_budget', 'val_accuracy'\]"):
        read_search(tuner.project_dir, "val_acc")


def test_an_unfinished_trial_is_not_ranked(tuner, tmp_path):
    path = next((tmp_path / "untitled_project").glob("trial_1/trial.json"))
    trial = json.loads(path.read_text())
    path.write_text(json.dumps({**trial, "status": "RUNNING"}))
    assert read_search(tuner.project_dir, "val_accuracy").trials[1].state == "unfinished"
    # KerasTuner truncates a file before it writes it.
    path.write_text("")
    assert [trial.name for trial in read_search(tuner.project_dir, "val_accuracy").trials] == ["0", "2", "3", "4"]


def test_positions_on_an_axis():
    assert [Hyperparameter("t", 1, 16, True).position(value) for value in (1, 4, 16)] == [0, 0.5, 1]
    assert [Hyperparameter("a", 0, 4).position(value) for value in (0, 1, 4)] == [0, 0.25, 1]
    assert [Hyperparameter("c", choices=["a", "b", "c"]).position(value) for value in "abc"] == [0, 0.5, 1]


def test_the_best_so_far_is_drawn_in_percent(figures):
    search = searched()
    search.trials.append(Trial("04", {}, None, "failed"))
    rendered = search_plots.best_so_far(search)
    (axes,) = figures[0].axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([float(line.get_ydata()[0]) for line in dots], [80, 90, 85, 88])
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(steps.get_ydata(), [80, 90, 90, 90, 90])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "validation accuracy, %")
    assert "×" in rendered.caption and "5 trials, 4 completed, 1 failed" in rendered.alt
    assert "val_accuracy 0.9" in rendered.alt


def test_the_lowest_loss_is_the_best(figures):
    search = searched(scores=(0.8, 0.9, 0.3), direction="min", objective="val_loss")
    search_plots.best_so_far(search)
    (axes,) = figures[0].axes
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(steps.get_ydata(), [0.8, 0.8, 0.3])
    assert axes.get_ylabel() == "validation loss"


def test_an_outlier_does_not_flatten_the_others(figures):
    rendered = search_plots.best_so_far(searched(scores=(0.1, 0.90, 0.88, 0.89, 0.89)))
    low, high = figures[0].axes[0].get_ylim()
    assert 80 < low < 88 and 90 < high < 91
    assert [line.get_marker() for line in figures[0].axes[0].lines][0] == "v"
    assert "Triangles: beyond the axis" in rendered.caption


def test_lines_cross_the_axes_at_the_values(figures):
    search = searched()
    rendered = search_plots.parallel_coordinates(search)
    (axes,) = figures[0].axes
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
    assert "Logarithmic: temperature, sgd rate." in rendered.caption and "No dot" in rendered.caption


def test_the_darker_the_better():
    for direction, order in (("max", (0.8, 0.85, 0.9)), ("min", (0.9, 0.85, 0.8))):
        view = search_plots._ScoreView(searched(scores=order, direction=direction))
        brightness = [sum(view.color(score)[:3]) for score in order]
        assert brightness == sorted(brightness, reverse=True)


def test_one_against_another(figures):
    search = searched()
    search_plots.one_against_another(search, "temperature", "alpha")
    axes, bar = figures[0].axes
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
def test_figures_contain_all_artists_and_pngs_are_written(case, figures, tmp_path):
    paths = draw_search(CASES[case](), tmp_path / "new")
    assert [path.name for path in paths] == [
        "best_so_far.png",
        "parallel_coordinates.png",
        "temperature_against_alpha.png",
    ]
    for path, drawn in zip(paths, figures, strict=True):
        assert path.read_bytes().startswith(b"\x89PNG")
        (width, height), box = drawn.get_size_inches(), drawn.get_tightbbox()
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
        write_page(each, tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert '<h2 id="search">Hyperparameter search</h2>' in page and "The best 4 of\n4 trials:" in page
        for cell in search.rows()[0]:
            assert f">{cell}<" in page
        assert page.count("4 trials, 4 completed") == 3
    write_page(samples.results(seeds=2, shown=0), tmp_path / "report.html")
    assert "Hyperparameter search" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("distilled", "expected"),
    [
        (0.99, "With the hyperparameters of the best of 4 trials the student makes 77 % fewer errors than with the"),
        (0.9571, "No clear difference: with the hyperparameters"),
        (0.93, "The search did not help here: with the hyperparameters"),
    ],
)
def test_verdict_on_the_search(distilled, expected):
    search = searched(best_model="distilled", default_model="baseline")
    assert expected in verdict(samples.results(distilled=distilled, shown=0, search=search))[-1]
    assert len(verdict(samples.results(shown=0, search=dataclasses.replace(search, default_model=None)))) == 1


def test_a_search_of_unknown_models_raises():
    with pytest.raises(ValueError, match=r"`search` refers to unknown models \['nobody'\]"):
        samples.results(search=searched(best_model="nobody"))
    with pytest.raises(ValueError, match="'up'"):
        searched(direction="up")
