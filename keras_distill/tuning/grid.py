"""A grid search that can be resumed."""

import functools

import keras_tuner

from keras_distill import _compat


class GridSearch(keras_tuner.Tuner):
    """`keras_tuner.GridSearch`, but for one thing: started again, it goes on with the rest of its grid.

    KerasTuner 1.4.8 does not write down where in the grid a search stands, and then fails with a KeyError.

    Args:
        hypermodel: A `DistillationHyperModel`, or any other.
        objective, max_trials, seed, hyperparameters, tune_new_entries, allow_new_entries, max_retries_per_trial,
            max_consecutive_failed_trials, **kwargs: As for `keras_tuner.GridSearch`.
    """

    def __init__(
        self,
        hypermodel,
        objective=None,
        max_trials=None,
        seed=None,
        hyperparameters=None,
        tune_new_entries=True,
        allow_new_entries=True,
        max_retries_per_trial=0,
        max_consecutive_failed_trials=3,
        **kwargs,
    ):
        oracle = _Oracle(
            objective,
            max_trials=max_trials,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        super().__init__(oracle, hypermodel, **kwargs)


class _Oracle(keras_tuner.oracles.GridSearchOracle):
    def set_state(self, state):
        super().set_state(state)
        compare = _compat.grid_comparison(self)
        in_order = functools.cmp_to_key(lambda one, other: compare(self._values(one), self._values(other)))
        for trial_id in sorted(self.trials, key=in_order):
            _compat.grid_order(self).insert(trial_id)
        # What follows each of them is tried next, unless it was.
        _compat.grid_queue(self).extend(self.end_order)

    def _values(self, trial_id):
        return self.trials[trial_id].hyperparameters.values
