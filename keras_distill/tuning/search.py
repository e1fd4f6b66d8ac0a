"""Hyperparameter search, as read from the files of KerasTuner."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from keras_distill.utils.formatting import UNKNOWN


@dataclasses.dataclass
class Hyperparameter:
    """One dimension of the search space: a range of numbers, or a list of choices.

    Args:
        name: Name of the hyperparameter.
        low: Lower end of the range. Defaults to 0.
        high: Upper end of the range. Defaults to 0.
        logarithmic: True if values were sampled on a logarithmic scale. Defaults to False.
        choices: Values of a categorical hyperparameter. Defaults to empty, for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    choices: list[Any] = dataclasses.field(default_factory=list)

    def position(self, value: Any) -> float:
        """Return the position of a value between the ends, 0 to 1.

        Args:
            value: A value of the hyperparameter.
        """
        if self.choices:
            return self.choices.index(value) / max(len(self.choices) - 1, 1)
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5


@dataclasses.dataclass
class Trial:
    """One choice of hyperparameters.

    Args:
        name: Id of the trial, as in the name of its folder.
        values: `{hyperparameter: value}` of the hyperparameters that are active in the trial.
        score: Objective at the best epoch, mean over the executions; None if there is none.
        state: "completed", "over budget" (not trained), "failed" or "unfinished". Defaults to "completed".
        epochs: Number of epochs that Hyperband assigned. Defaults to None, for other tuners.
        reason: Last line of the error of a failed trial. Defaults to empty.
    """

    name: str
    values: dict[str, Any]
    score: float | None
    state: str = "completed"
    epochs: int | None = None
    reason: str = ""


@dataclasses.dataclass
class Search:
    """Trials of a hyperparameter search.

    Args:
        objective: Name of the metric, such as "val_accuracy".
        direction: "max" or "min".
        space: List of `Hyperparameter`.
        trials: List of `Trial`, in the order in which they ended.
        best_model: Name of the model in `Results` that was trained with the hyperparameters of the best trial. Defaults
            to None, for none.
        default_model: Name of the model in `Results` that was trained with the default hyperparameters. Defaults to
            None, for none.

    Raises:
        ValueError: If `direction` is neither "max" nor "min".

    Example:

    >>> from keras_distill.tuning.search import Hyperparameter, Search, Trial
    >>> trials = [Trial("0", {"temperature": 2.0}, 0.81), Trial("1", {"temperature": 8.0}, 0.84)]
    >>> search = Search("val_accuracy", "max", [Hyperparameter("temperature", 1.0, 16.0, True)], trials)
    >>> search.ranked()[0].name
    '1'
    """

    objective: str
    direction: str
    space: list[Hyperparameter]
    trials: list[Trial]
    best_model: str | None = None
    default_model: str | None = None

    def __post_init__(self):
        if self.direction not in ("max", "min"):
            raise ValueError(f"`direction` must be 'max' or 'min'. Received: {self.direction!r}")

    def ranked(self) -> list[Trial]:
        """Return the completed trials, best first."""
        completed = [trial for trial in self.trials if trial.state == "completed"]
        return sorted(completed, key=lambda trial: trial.score, reverse=self.direction == "max")

    def best_so_far(self) -> np.ndarray:
        """Return the best score after each trial, shape `[trials]`; NaN before the first completed trial."""
        scores = [trial.score if trial.state == "completed" else math.nan for trial in self.trials]
        return (np.fmax if self.direction == "max" else np.fmin).accumulate(np.array(scores, float))

    def varied(self) -> list[Hyperparameter]:
        """Return the hyperparameters with more than one possible value."""
        return [dimension for dimension in self.space if len(dimension.choices) > 1 or dimension.high > dimension.low]

    def headings(self) -> tuple[str, ...]:
        """Return the headings of `rows`."""
        return ("trial", self.objective, *(dimension.name for dimension in self.varied()))

    def rows(self, count: int = 5) -> list[tuple[str, ...]]:
        """Return the best trials as rows of text, in the order of `headings`.

        Args:
            count: Maximum number of rows. Defaults to 5.
        """
        names = [dimension.name for dimension in self.varied()]
        return [
            (
                trial.name,
                f"{trial.score:.4g}",
                *(_text(trial.values[name]) if name in trial.values else UNKNOWN for name in names),
            )
            for trial in self.ranked()[:count]
        ]

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Search":
        """Return the `Search` of a dictionary that `dataclasses.asdict` returned.

        Args:
            fields: The dictionary.
        """
        space = [Hyperparameter(**dimension) for dimension in fields["space"]]
        return cls(**{**fields, "space": space, "trials": [Trial(**trial) for trial in fields["trials"]]})


def read_search(folder: str | pathlib.Path, objective: str) -> Search:
    """Read a `Search` from the files of KerasTuner, finished or still running.

    A trial whose file is being written is left out.

    ```python
    read_search(tuner.project_dir, tuner.oracle.objective.name)
    ```

    Args:
        folder: The tuner's `project_dir`, which is `directory/project_name`.
        objective: Name of the metric, such as "val_accuracy"; any metric that the trials have.

    Returns:
        A `Search`.

    Raises:
        ValueError: If the folder contains no search, or no completed trial has the metric.
    """
    folder = pathlib.Path(folder)
    if not (folder / "oracle.json").exists():
        raise ValueError(f"'{folder}' contains no search of KerasTuner. Pass the tuner's `project_dir`.")
    oracle = json.loads((folder / "oracle.json").read_text(encoding="utf-8"))
    paths = sorted(folder.glob("trial_*/trial.json"))
    trials = [trial for path in paths if (trial := _read_complete(path)) is not None]
    end_order = {trial_id: position for position, trial_id in enumerate(oracle["end_order"])}
    trials.sort(key=lambda trial: end_order.get(trial["trial_id"], len(end_order)))
    measured = [trial["metrics"]["metrics"] for trial in trials if trial["status"] == "COMPLETED"]
    with_objective = [metrics[objective] for metrics in measured if objective in metrics]
    if measured and not with_objective:
        raise ValueError(f"No trial in '{folder}' has the metric '{objective}'. Available: {sorted(measured[0])}.")
    direction = with_objective[0]["direction"] if with_objective else "max"
    # A hyperparameter that is used under several conditions is listed several times.
    space = {entry["config"]["name"]: _hyperparameter(**entry) for entry in oracle["hyperparameters"]["space"]}
    return Search(objective, direction, list(space.values()), [_trial(trial, objective, direction) for trial in trials])


def _read_complete(path):
    """Return the JSON of a file, or None while KerasTuner writes it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None


def _hyperparameter(class_name, config):
    name = config["name"]
    if class_name == "Choice":
        return Hyperparameter(name, choices=config["values"])
    if class_name == "Boolean":
        return Hyperparameter(name, choices=[False, True])
    if class_name == "Fixed":
        return Hyperparameter(name, choices=[config["value"]])
    # The sampling "reverse_log" is not linear either, but a logarithmic axis would not show it.
    return Hyperparameter(name, config["min_value"], config["max_value"], config["sampling"] == "log")


def _trial(trial, objective, direction):
    metrics = trial["metrics"]["metrics"]
    values = trial["hyperparameters"]["values"]
    score = _best(metrics[objective], direction) if objective in metrics else None
    over_budget = "over_budget" in metrics and bool(_best(metrics["over_budget"], "max"))
    completed = trial["status"] == "COMPLETED" and score is not None
    state = "completed" if completed else "failed" if trial["status"] == "FAILED" else "unfinished"
    return Trial(
        name=trial["trial_id"],
        values={name: value for name, value in values.items() if not name.startswith("tuner/")},
        score=score,
        state="over budget" if over_budget else state,
        epochs=values.get("tuner/epochs"),
        reason=(trial["message"] or "").strip().rpartition("\n")[2],
    )


def _best(metric, direction):
    means = [float(np.mean(observation["value"])) for observation in metric["observations"]]
    return max(means) if direction == "max" else min(means)


def _text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)
