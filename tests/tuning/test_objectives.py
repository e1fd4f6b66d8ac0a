"""Objectives of a search, and trials that have no score."""

import keras
import numpy as np
import pytest

from keras_distill import Term
from keras_distill.losses import KLDivergence
from keras_distill.tuning import GridSearch
from tests.support.helpers import Counter, mlp
from tests.support.searches import STEPS, Objective, hypermodel, random_search, search, splits_of, states, trials


@pytest.mark.parametrize(("direction", "best"), [("min", min), ("max", max)])
def test_objective_with_minimum_or_maximum(direction, best, tmp_path):
    objective = Objective("val_kl_divergence_loss", direction)
    tuner = search(random_search(hypermodel(), tmp_path, objective=objective))
    scores = [trial.score for trial in trials(tuner)]
    assert len(set(scores)) == 2
    assert tuner.oracle.get_best_trials()[0].score == best(scores)


def test_several_objectives(tmp_path):
    objectives = [Objective("val_accuracy", "max"), Objective("val_kl_divergence_loss", "min")]
    tuner = search(random_search(hypermodel(), tmp_path, objective=objectives))
    for trial in trials(tuner):
        accuracy, loss = (trial.metrics.get_best_value(objective.name) for objective in objectives)
        np.testing.assert_allclose(trial.score, loss - accuracy, rtol=1e-5)


def student_with_counter(hp):
    return keras.Sequential([keras.Input((8,)), Counter(name="counter"), *mlp().layers], name="student")


class StepCounter(keras.callbacks.Callback):
    count = 0

    def on_train_batch_end(self, batch, logs=None):
        StepCounter.count += 1


@pytest.mark.parametrize(("callbacks", "steps"), [([], 1), ([StepCounter()], STEPS)])
def test_objective_that_is_not_logged_raises_early(callbacks, steps, tmp_path):
    students = []

    def student(hp):
        students.append(student_with_counter(hp))
        return students[-1]

    tuner = random_search(hypermodel(student=student), tmp_path, objective=Objective("val_acuracy", "max"))
    with pytest.raises(
        ValueError, match=r"val_acuracy.* is not logged by any metric or callback. Available: .*\'val_accuracy\'"
    ):
        search(tuner, callbacks=callbacks)
    assert students[-1].get_layer("counter").counted()[0] == steps


def test_objective_without_validation_data_raises(tmp_path):
    tuner = random_search(hypermodel(), tmp_path)
    with pytest.raises(ValueError, match="val_accuracy.*There are no validation data"):
        tuner.search(*splits_of()[0], epochs=1, verbose=0)


class LogsObjective(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["own"] = 1.0 - epoch


def test_objective_logged_by_a_callback(tmp_path):
    tuner = random_search(hypermodel(), tmp_path, objective=Objective("own", "max"))
    search(tuner, callbacks=[LogsObjective()])
    assert [trial.score for trial in trials(tuner)] == [1.0] * 2


def test_failed_trial_warns(tmp_path):
    def student(hp):
        return mlp(classes=3 if hp.Choice("classes", [3, 5]) == 3 else 5)

    model = hypermodel(student=student, terms=[Term(KLDivergence())], supervised_weight=1.0)
    tuner = GridSearch(model, "val_loss", directory=tmp_path)
    with pytest.warns(UserWarning, match=r"Trial \{'classes': 5\} failed.*compares 5 student classes with 3"):
        search(tuner)
    assert sorted(states(tuner)) == ["COMPLETED", "FAILED"]


def test_diverged_trial_warns(tmp_path):
    def optimizer(hp):
        return keras.optimizers.SGD(hp.Choice("rate", [0.1, 1e30]))

    model = hypermodel(terms=[Term(KLDivergence())], supervised_weight=1.0, optimizer=optimizer)
    with pytest.warns(
        UserWarning, match=r"'rate': 1e\+30.*val_loss.* is NaN after the first epoch of the trial .epoch 1."
    ):
        tuner = search(GridSearch(model, "val_loss", directory=tmp_path))
    assert sorted(states(tuner)) == ["COMPLETED", "FAILED"]
