"""Hyperparameter searches as read from the files of KerasTuner."""

import json

import keras_tuner
import numpy as np
import pytest

from keras_distill.tuning.search import Hyperparameter, read_search
from tests.report.samples import search as searched


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


def test_an_unknown_direction_raises():
    with pytest.raises(ValueError, match="'up'"):
        searched(direction="up")
