"""A search on paper: what its files say is what is drawn, in the report as in PNGs."""

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
    drawn, picture = [], drawing.render_figure

    def kept(figure, *said):
        drawn.append(figure)
        return picture(figure, *said)

    monkeypatch.setattr(search_plots, "picture", kept)
    return drawn


class Lottery(keras_tuner.HyperModel):
    """A search without models: known scores, of which some fail."""

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


def test_what_keras_tuner_wrote_is_read(tuner):
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
    # Any metric of the trials, in its own direction.
    over = read_search(tuner.project_dir, "over_budget")
    assert over.direction == "min" and over.trials[0].score == 0


def test_a_search_that_is_not_there_or_has_no_such_metric(tuner, tmp_path):
    with pytest.raises(ValueError, match="holds no search of KerasTuner"):
        read_search(tmp_path, "val_accuracy")
    with pytest.raises(ValueError, match=r"has the metric 'val_acc'. There: \['over_budget', 'val_accuracy'\]"):
        read_search(tuner.project_dir, "val_acc")


def test_an_unfinished_trial_is_neither_good_nor_bad(tuner, tmp_path):
    path = next((tmp_path / "untitled_project").glob("trial_1/trial.json"))
    trial = json.loads(path.read_text())
    path.write_text(json.dumps({**trial, "status": "RUNNING"}))
    assert read_search(tuner.project_dir, "val_accuracy").trials[1].state == "unfinished"
    # KerasTuner empties a file before it writes it.
    path.write_text("")
    assert [trial.name for trial in read_search(tuner.project_dir, "val_accuracy").trials] == ["0", "2", "3", "4"]


def test_positions_on_an_axis():
    assert [Hyperparameter("t", 1, 16, True).position(value) for value in (1, 4, 16)] == [0, 0.5, 1]
    assert [Hyperparameter("a", 0, 4).position(value) for value in (0, 1, 4)] == [0, 0.25, 1]
    assert [Hyperparameter("c", choices=["a", "b", "c"]).position(value) for value in "abc"] == [0, 0.5, 1]


def test_the_best_so_far_is_drawn_in_percent(figures):
    search = searched()
    search.trials.append(Trial("04", {}, None, "failed"))
    picture = search_plots.best_so_far(search)
    (axes,) = figures[0].axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([float(line.get_ydata()[0]) for line in dots], [80, 90, 85, 88])
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(steps.get_ydata(), [80, 90, 90, 90, 90])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "validation accuracy, %")
    assert "×" in picture.caption and "5 trials, 4 completed, 1 failed" in picture.alt
    assert "val_accuracy 0.9" in picture.alt


def test_the_lowest_loss_is_the_best(figures):
    search = searched(scores=(0.8, 0.9, 0.3), direction="min", objective="val_loss")
    search_plots.best_so_far(search)
    (axes,) = figures[0].axes
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(steps.get_ydata(), [0.8, 0.8, 0.3])
    assert axes.get_ylabel() == "validation loss"


def test_an_outlier_does_not_flatten_the_others(figures):
    picture = search_plots.best_so_far(searched(scores=(0.1, 0.90, 0.88, 0.89, 0.89)))
    low, high = figures[0].axes[0].get_ylim()
    assert 80 < low < 88 and 90 < high < 91
    assert [line.get_marker() for line in figures[0].axes[0].lines][0] == "v"
    assert "Triangles: beyond the axis" in picture.caption


def test_lines_cross_the_axes_at_the_values(figures):
    search = searched()
    picture = search_plots.parallel_coordinates(search)
    (axes,) = figures[0].axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["temperature", "alpha", "optimizer", "sgd rate", "validation accuracy, %"]
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    best = search.ranked()[0]
    expected = [math.log2(best.values["temperature"]) / 4, best.values["alpha"], 0.5, 0.5, 1.0]
    np.testing.assert_allclose(lines[-1].get_xdata(), expected)
    assert lines[-1].get_linewidth() == max(line.get_linewidth() for line in lines)
    # The worst one has the optimizer "adam" and so no rate of the other.
    np.testing.assert_allclose(lines[0].get_xdata()[2:], [0, 0])
    assert [list(lines[place].get_ydata()) for place in (0, -1)] == [[0, 1, 2, 4], [0, 1, 2, 3, 4]]
    assert "Logarithmic: temperature, sgd rate." in picture.caption and "No dot" in picture.caption


def test_the_darker_the_better():
    for direction, order in (("max", (0.8, 0.85, 0.9)), ("min", (0.9, 0.85, 0.8))):
        view = search_plots._View(searched(scores=order, direction=direction))
        brightness = [sum(view.color(score)[:3]) for score in order]
        assert brightness == sorted(brightness, reverse=True)


def test_one_against_another(figures):
    search = searched()
    search_plots.one_against_another(search, "temperature", "alpha")
    axes, bar = figures[0].axes
    found = sorted(tuple(dots.get_offsets()[0]) for dots in axes.collections)
    wanted = sorted((trial.values["temperature"], trial.values["alpha"]) for trial in search.trials)
    np.testing.assert_allclose(found, wanted)
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
def test_nothing_sticks_out_and_pngs_are_written(case, figures, tmp_path):
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


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert draw_search(searched(scores=()), tmp_path) == []
    failed = searched(trials=[Trial("0", {}, None, "failed")])
    assert draw_search(failed, tmp_path) == [] and failed.rows() == []


def test_the_report_shows_the_search(tmp_path):
    search = searched(found="student distilled", defaults="student alone")
    results = samples.results(seeds=2, shown=0, search=search)
    results.save(tmp_path / "results.json")
    loaded = Results.load(tmp_path / "results.json")
    assert loaded.search == search
    for each in (results, loaded):
        write_page(each, tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert '<h2 id="search">The search</h2>' in page and "The best 4 of\n4:" in page
        for cell in search.rows()[0]:
            assert f">{cell}<" in page
        assert page.count("4 trials, 4 completed") == 3
    write_page(samples.results(seeds=2, shown=0), tmp_path / "report.html")
    assert "The search" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("distilled", "said"),
    [
        (0.99, "With the hyperparameters of the best of 4 trials the student makes 77 % fewer errors than with the"),
        (0.9571, "No clear difference: with the hyperparameters"),
        (0.93, "The search did not help here: with the hyperparameters"),
    ],
)
def test_what_the_search_bought_is_said_plainly(distilled, said):
    search = searched(found="student distilled", defaults="student alone")
    assert said in verdict(samples.results(distilled=distilled, shown=0, search=search))[-1]
    assert len(verdict(samples.results(shown=0, search=dataclasses.replace(search, defaults=None)))) == 1


def test_a_search_that_does_not_fit_the_models_is_refused():
    with pytest.raises(ValueError, match=r"The search names the models \['nobody'\]"):
        samples.results(search=searched(found="nobody"))
    with pytest.raises(ValueError, match="'up'"):
        searched(direction="up")
