"""`Budget`: limits on the size and the latency of a student."""

import math

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Term
from keras_distill.losses import KLDivergence
from keras_distill.tuning import Budget, GridSearch, spaces
from keras_distill.tuning.budget import WorsenObjective
from tests.support.helpers import mlp
from tests.support.searches import (
    BATCH,
    STEPS,
    Objective,
    hypermodel,
    logit_terms,
    random_search,
    read_records,
    record,
    search,
    splits_of,
    states,
    trials,
)


def student_of_variable_width(hp):
    return mlp(spaces.width(hp, 4, 64))


# The two layers have 8 * width + width and 3 * width + 3 weights.
PARAMETERS = {width: 12 * width + 3 for width in (4, 8, 16, 32, 64)}


def budgeted(budget, **options):
    options = {
        "student": student_of_variable_width,
        "terms": [Term(KLDivergence())],
        "supervised_weight": 1.0,
    } | options
    return hypermodel(budget=budget, **options)


def test_students_over_the_budget_warn_and_are_not_trained(tmp_path):
    log = tmp_path / "log"
    model = budgeted(Budget(parameters=100, megabytes=399e-6))
    with pytest.warns(UserWarning, match="not trained: 195 parameters of 100; 0.00078 megabytes of 0.000399"):
        tuner = search(GridSearch(model, "val_accuracy", directory=tmp_path), callbacks=[RecordSteps(log)])
    for trial in trials(tuner):
        width = trial.hyperparameters.values["width"]
        assert trial.metrics.get_best_value("parameters") == PARAMETERS[width]
        np.testing.assert_allclose(trial.metrics.get_best_value("megabytes"), 4e-6 * PARAMETERS[width])
        assert trial.metrics.get_best_value("over_budget") == (width > 8)
    # 8 units have 99 parameters. Three consecutive students over the budget do not count as failed trials.
    assert states(tuner) == ["COMPLETED"] * 5
    assert read_records(log) == [(4, STEPS), (8, STEPS), (16, 0), (32, 0), (64, 0)]
    assert tuner.get_best_models()[0].student.count_params() <= 100


class RecordSteps(keras.callbacks.Callback):
    """Record the width of each student and its number of training steps."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def on_train_end(self, logs=None):
        record(self.path, self.model.student.get_layer("features").units, int(self.model.optimizer.iterations))


def test_hyperband_promotes_students_within_the_budget(tmp_path):
    model = budgeted(Budget(parameters=100), terms=logit_terms, supervised_weight=spaces.alpha)
    tuner = keras_tuner.Hyperband(model, "val_accuracy", max_epochs=2, factor=2, seed=1, directory=tmp_path)
    with pytest.warns(UserWarning, match="over the budget"):
        search(tuner)
    assert set(states(tuner)) == {"COMPLETED"}
    assert any(trial.metrics.get_best_value("over_budget") for trial in trials(tuner))
    assert tuner.get_best_models()[0].student.count_params() <= 100


@pytest.mark.parametrize("kind", ["arrays", "split", "datasets", "keywords", "none"])
def test_student_over_the_budget_is_evaluated_on_the_data_of_fit(kind, tmp_path):
    (x, y), (x_validation, y_validation) = splits_of()

    def dataset(*arrays):
        return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)

    arguments, options = {
        "arrays": ((x, y), {"validation_data": (x_validation, y_validation)}),
        "split": ((x, y), {"validation_split": 0.25}),
        "datasets": (
            (dataset(x, y).repeat(),),
            {"validation_data": dataset(x_validation, y_validation), "steps_per_epoch": STEPS},
        ),
        "keywords": ((), {"x": x, "y": y, "validation_data": (x_validation, y_validation, np.ones(16))}),
        "none": ((x, y), {}),
    }[kind]
    objective = "accuracy" if kind == "none" else "val_accuracy"
    tuner = random_search(budgeted(Budget(parameters=1)), tmp_path, 1, objective)
    with pytest.warns(UserWarning, match="over the budget"):
        tuner.search(*arguments, epochs=3, verbose=0, **options)
    (trial,), (best,) = trials(tuner), tuner.get_best_models()
    evaluated_on = (x, y) if kind in ("split", "none") else (x_validation, y_validation)
    results = best.evaluate(*evaluated_on, verbose=0, return_dict=True)
    # The score is worse than that of any trained student.
    np.testing.assert_allclose(-1, trial.score, rtol=1e-5)
    loss = trial.metrics.get_best_value("loss" if kind == "none" else "val_loss")
    np.testing.assert_allclose(results["loss"], loss, rtol=1e-5)


def test_objectives_over_the_budget_are_worsened():
    several = keras_tuner.oracles.RandomSearchOracle(["val_accuracy", "val_loss"]).objective
    for objective in (several, *several.objectives):
        logs = {"val_accuracy": 0.4, "val_loss": 2.0, "other": 1.0}
        objective_names = {single.name for single in getattr(objective, "objectives", [objective])}
        WorsenObjective(objective).on_epoch_end(0, logs)
        expected = {"val_accuracy": -1.0, "val_loss": 5.0}
        for name, value in {"val_accuracy": 0.4, "val_loss": 2.0, "other": 1.0}.items():
            assert logs[name] == pytest.approx(expected[name] if name in objective_names else value)


def test_cost_as_objective(tmp_path):
    model = budgeted(Budget(parameters=math.inf))
    tuner = search(random_search(model, tmp_path, objective=Objective("parameters", "min")))
    counts = [PARAMETERS[trial.hyperparameters.values["width"]] for trial in trials(tuner)]
    assert len(set(counts)) == 2
    assert tuner.get_best_models()[0].student.count_params() == min(counts)


def test_latency_is_measured():
    budget = Budget(milliseconds=1e-6)
    costs = budget.costs(mlp())
    assert list(costs) == ["milliseconds"] and 0 < costs["milliseconds"] < 1000
    assert "milliseconds of 1e-06" in budget.excess(costs)[0]
    assert not Budget(milliseconds=math.inf).excess(costs)
    open_ended = keras.Sequential([keras.Input((None, 8)), keras.layers.GlobalAveragePooling1D()], name="open")
    with pytest.raises(ValueError, match="latency of 'open' depends on the length of its inputs"):
        budget.costs(open_ended)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs at least one limit"),
        ({"parameters": 0}, "`parameters` must be a finite number > 0. Received: 0"),
        ({"milliseconds": math.nan}, "`milliseconds` must be a finite number > 0. Received: nan"),
        ({"parameters": 1, "batch_size": 0}, "`batch_size` must be an integer >= 1. Received: 0"),
    ],
)
def test_inconsistent_budgets_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Budget(**options)
