"""Grid search that can be resumed."""

import functools
from typing import Any

import keras_tuner

from keras_distill import _compat


class GridSearch(keras_tuner.Tuner):
    """`keras_tuner.GridSearch` that resumes with the remaining points of the grid when it is started again.

    KerasTuner 1.4.8 does not save the position in the grid, and a resumed search fails with a KeyError.

    Args:
        hypermodel: A `DistillationHyperModel`, or any other `keras_tuner.HyperModel`.
        objective: Name of a metric, such as "val_accuracy", a `keras_tuner.Objective`, or a list of them. Defaults to
            None, for a hypermodel whose `fit` returns the objective.
        max_trials: Maximum number of trials. Defaults to None, the whole grid.
        seed: Random seed, an integer. Defaults to None.
        hyperparameters: A `keras_tuner.HyperParameters` that overrides or restricts the search space. Defaults to
            None.
        tune_new_entries: True to search the hyperparameters that `hyperparameters` does not contain, False to use
            their defaults. Defaults to True.
        allow_new_entries: True if the hypermodel may request hyperparameters that `hyperparameters` does not contain.
            Defaults to True.
        max_retries_per_trial: Number of times that a failed trial is repeated. Defaults to 0.
        max_consecutive_failed_trials: Number of failed trials in a row that end the search. Defaults to 3.
        **kwargs: Further arguments of `keras_tuner.Tuner`, such as `directory`, `project_name` and `overwrite`.

    Example:

    >>> from keras_distill.tuning import DistillationHyperModel, GridSearch
    >>> hypermodel = DistillationHyperModel(
    ...     student=lambda hp: keras.models.clone_model(student),
    ...     teacher=teacher,
    ...     terms=lambda hp: [Term(KLDivergence(hp.Choice("temperature", [1.0, 4.0])))],
    ... )
    >>> tuner = GridSearch(hypermodel, "val_loss", directory="search")
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel,
        objective: Any = None,
        max_trials: int | None = None,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        **kwargs: Any,
    ):
        oracle = _ResumableGridSearchOracle(
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


class _ResumableGridSearchOracle(keras_tuner.oracles.GridSearchOracle):
    def set_state(self, state):
        super().set_state(state)
        compare = _compat.grid_comparison(self)
        grid_order = functools.cmp_to_key(lambda one, other: compare(self._values(one), self._values(other)))
        for trial_id in sorted(self.trials, key=grid_order):
            _compat.grid_order(self).insert(trial_id)
        # The oracle tries the successor of each of these trials next, unless it exists.
        _compat.grid_queue(self).extend(self.end_order)

    def _values(self, trial_id):
        return self.trials[trial_id].hyperparameters.values
