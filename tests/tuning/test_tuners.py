"""Every tuner: searches that are interrupted and resumed, and trials with several executions."""

import itertools

import keras
import keras_tuner
import numpy as np
import pytest

from keras_distill import Term
from keras_distill.losses import KLDivergence
from keras_distill.tuning import GridSearch
from tests.support.helpers import assert_same_weights, weights_of
from tests.support.searches import STEPS, hypermodel, read_records, record, search, splits_of, states, trials


def grid_terms(hp):
    """Return terms of a search space with four combinations."""
    temperature, weight = hp.Choice("temperature", [1.0, 4.0]), hp.Choice("weight", [0.5, 1.0])
    return [Term(KLDivergence(temperature), weight=weight)]


class RecordTrainings(keras.callbacks.Callback):
    """Record temperature, weight and step of every training, and interrupt the search at the n-th training."""

    def __init__(self, path, interrupt_at=None):
        super().__init__()
        self.path, self.interrupt_at = str(path), interrupt_at

    def on_train_begin(self, logs=None):
        (term,) = self.model.terms
        record(self.path, term.loss.temperature, term.weight, int(self.model.optimizer.iterations))
        if len(read_records(self.path)) == self.interrupt_at:
            # KerasTuner counts an Exception as a failed trial, but not a KeyboardInterrupt.
            raise KeyboardInterrupt


TUNERS = {
    "random": (keras_tuner.RandomSearch, {"max_trials": 3}),
    "hyperband": (keras_tuner.Hyperband, {"max_epochs": 2, "factor": 2}),
    "bayesian": (keras_tuner.BayesianOptimization, {"max_trials": 4, "num_initial_points": 2}),
    "grid": (GridSearch, {}),
}


@pytest.fixture(scope="module", params=TUNERS)
def resumed(request, tmp_path_factory):
    """Resume a search after an interruption in its second trial; return its kind, tuner, function and log file."""
    folder = tmp_path_factory.mktemp("resumed")
    kind, options = TUNERS[request.param]
    model = hypermodel(terms=grid_terms, supervised_weight=1.0)

    def run_search(interrupt_at=None):
        tuner = kind(model, "val_loss", seed=0, directory=folder, project_name="search", **options)
        return search(tuner, epochs=2, callbacks=[RecordTrainings(folder / "log", interrupt_at)])

    with pytest.raises(KeyboardInterrupt):
        run_search(interrupt_at=2)
    return request.param, run_search(), run_search, folder / "log"


def test_best_student_of_every_tuner(resumed, tmp_path, capsys):
    _, tuner, _, _ = resumed
    assert set(states(tuner)) == {"COMPLETED"} and len(trials(tuner)) >= 3
    (trial,), (best,) = tuner.oracle.get_best_trials(), tuner.get_best_models()
    assert trial.score == min(other.score for other in trials(tuner))
    results = best.evaluate(*splits_of()[1], verbose=0, return_dict=True)
    np.testing.assert_allclose(results["loss"], trial.score, rtol=1e-5)
    best.student.save(tmp_path / "student.keras")
    assert_same_weights(weights_of(keras.saving.load_model(tmp_path / "student.keras")), weights_of(best.student))
    tuner.results_summary()
    assert "temperature" in capsys.readouterr().out


def test_resumed_search_skips_finished_trials(resumed):
    kind, tuner, run_search, log = resumed
    trained = read_records(log)
    # Only the interrupted trial was trained again.
    assert trained[1] == trained[2] and len(trained) == len(trials(tuner)) + 1
    if kind == "grid":
        choices = [trained[0][:2], *(values[:2] for values in trained[2:])]
        assert sorted(choices) == sorted(itertools.product([1.0, 4.0], [0.5, 1.0]))
    second_tuner = run_search()
    assert len(read_records(log)) == len(trained)
    first, second = (searched.get_best_models()[0].student for searched in (tuner, second_tuner))
    assert_same_weights(weights_of(first), weights_of(second))


def test_hyperband_restores_the_optimizer_state(resumed):
    kind, tuner, _, log = resumed
    promoted = [trial for trial in trials(tuner) if "tuner/trial_id" in trial.hyperparameters.values]
    assert bool(promoted) == (kind == "hyperband")
    for trial in promoted:
        parent = tuner.oracle.get_trial(trial.hyperparameters.values["tuner/trial_id"])
        # The log also has the interrupted training.
        assert read_records(log)[int(trial.trial_id) + 1][2] == STEPS * (parent.best_step + 1)
        built, loaded = tuner._build_hypermodel(trial.hyperparameters), tuner.load_model(parent)
        assert_same_weights(weights_of(built), weights_of(loaded), rtol=0, atol=0)
        for one, other in zip(built.optimizer.variables, loaded.optimizer.variables, strict=True):
            np.testing.assert_array_equal(one, other)
        # The moments of Adam are restored, not only the step.
        assert all(np.any(np.array(moment)) for moment in built.optimizer.variables[2:])


def test_several_executions_are_averaged(tmp_path):
    log = tmp_path / "log"
    scores = []

    class Recording(keras_tuner.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            histories = super().run_trial(trial, *args, **kwargs)
            scores.append([min(history.history["val_loss"]) for history in histories])
            return histories

    model = hypermodel(terms=grid_terms, supervised_weight=1.0)
    tuner = Recording(model, "val_loss", max_trials=1, executions_per_trial=2, seed=0, directory=tmp_path)
    search(tuner, callbacks=[RecordTrainings(log)])
    first, second = read_records(log)
    assert first == second
    (trial,), (both,) = trials(tuner), scores
    assert both[0] != both[1]
    np.testing.assert_allclose(trial.score, np.mean(both), rtol=1e-6)


def test_private_names_of_keras_tuner_exist():
    from keras_tuner.src.engine import tuner_utils

    assert {"tuner", "trial"} <= set(vars(tuner_utils.TunerCallback("tuner", "trial")))
    oracle = keras_tuner.oracles.GridSearchOracle()
    assert {"_ordered_ids", "_populate_next"} <= set(vars(oracle)) and callable(oracle._compare)
