"""A hyperparameter search as its files tell it: what was tried, and what came of it."""

import dataclasses
import json
import math
import pathlib

import numpy as np

from keras_distill.utils.formatting import UNKNOWN

STATES = ("completed", "over budget", "failed", "unfinished")


@dataclasses.dataclass
class Hyperparameter:
    """What was searched, and where.

    Args:
        name: Its name.
        low, high: The range of a number.
        logarithmic: Whether it was drawn from a logarithmic scale.
        choices: The values of what is no range; empty for one.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    choices: list = dataclasses.field(default_factory=list)

    def position(self, value):
        """Where a value lies between the ends, 0 to 1."""
        if self.choices:
            return self.choices.index(value) / max(len(self.choices) - 1, 1)
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5


@dataclasses.dataclass
class Trial:
    """One choice of hyperparameters.

    Args:
        name: Its number, as in the folder's name.
        values: `{hyperparameter: value}`, only of those that it has.
        score: The objective at its best epoch, the mean over its executions; None if there is none.
        state: "completed", "over budget" (and so not trained), "failed" or "unfinished".
        epochs: How many epochs Hyperband gave it; None elsewhere.
        reason: Why it failed, one line.
    """

    name: str
    values: dict
    score: float | None
    state: str = "completed"
    epochs: int | None = None
    reason: str = ""


@dataclasses.dataclass
class Search:
    """All trials of a search.

    Args:
        objective: Name of the metric.
        direction: "max" or "min".
        space: List of `Hyperparameter`.
        trials: List of `Trial`, in the order in which they ended.
        found: Name of the model in `Results` that was trained with the best trial's values; None if there is none.
        defaults: Name of the one that was trained with the default values, likewise.

    Raises:
        ValueError: For another direction.
    """

    objective: str
    direction: str
    space: list
    trials: list
    found: str | None = None
    defaults: str | None = None

    def __post_init__(self):
        if self.direction not in ("max", "min"):
            raise ValueError(f"The direction of a search is 'max' or 'min'. Received: {self.direction!r}")

    def ranked(self):
        """The completed trials, best first."""
        completed = [trial for trial in self.trials if trial.state == "completed"]
        return sorted(completed, key=lambda trial: trial.score, reverse=self.direction == "max")

    def best_so_far(self):
        """The best score after each trial, NaN before there is one."""
        scores = [trial.score if trial.state == "completed" else math.nan for trial in self.trials]
        return (np.fmax if self.direction == "max" else np.fmin).accumulate(np.array(scores, float))

    def varied(self):
        """The `Hyperparameter`s that could have had several values."""
        return [each for each in self.space if len(each.choices) > 1 or each.high > each.low]

    def headings(self):
        """Of `rows`."""
        return ("trial", self.objective, *(each.name for each in self.varied()))

    def rows(self, count=5):
        """The best trials as people read them, in the order of `headings`."""
        return [
            (
                trial.name,
                f"{trial.score:.4g}",
                *(_text(trial.values[each.name]) if each.name in trial.values else UNKNOWN for each in self.varied()),
            )
            for trial in self.ranked()[:count]
        ]

    @classmethod
    def from_fields(cls, fields):
        """What `dataclasses.asdict` made of one."""
        space = [Hyperparameter(**each) for each in fields["space"]]
        return cls(**{**fields, "space": space, "trials": [Trial(**trial) for trial in fields["trials"]]})


def read_search(folder, objective):
    """A `Search` from the files that KerasTuner wrote, finished or not. One that is just being written is left out.

    ```python
    read_search(tuner.project_dir, tuner.oracle.objective.name)
    ```

    Args:
        folder: The tuner's `project_dir`, which is `directory/project_name`.
        objective: Name of the metric, such as "val_accuracy"; any that the trials have.

    Raises:
        ValueError: If there is no search, or no completed trial has that metric.
    """
    folder = pathlib.Path(folder)
    if not (folder / "oracle.json").exists():
        raise ValueError(f"'{folder}' holds no search of KerasTuner. Pass the tuner's `project_dir`.")
    oracle = json.loads((folder / "oracle.json").read_text(encoding="utf-8"))
    found = [trial for path in sorted(folder.glob("trial_*/trial.json")) if (trial := _whole(path)) is not None]
    ended = {name: place for place, name in enumerate(oracle["end_order"])}
    found.sort(key=lambda trial: ended.get(trial["trial_id"], len(ended)))
    measured = [trial["metrics"]["metrics"] for trial in found if trial["status"] == "COMPLETED"]
    having = [metrics[objective] for metrics in measured if objective in metrics]
    if measured and not having:
        raise ValueError(f"No trial in '{folder}' has the metric '{objective}'. There: {sorted(measured[0])}.")
    direction = having[0]["direction"] if having else "max"
    space = {each["config"]["name"]: _hyperparameter(**each) for each in oracle["hyperparameters"]["space"]}
    return Search(objective, direction, list(space.values()), [_trial(trial, objective, direction) for trial in found])


def _whole(path):
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
    # "reverse_log", too, is no straight line, but its logarithm is not that of the value.
    return Hyperparameter(name, config["min_value"], config["max_value"], config["sampling"] == "log")


def _trial(trial, objective, direction):
    metrics = trial["metrics"]["metrics"]
    values = trial["hyperparameters"]["values"]
    score = _best(metrics[objective], direction) if objective in metrics else None
    over_budget = "over_budget" in metrics and bool(_best(metrics["over_budget"], "max"))
    completed = trial["status"] == "COMPLETED" and score is not None
    ended = "completed" if completed else "failed" if trial["status"] == "FAILED" else "unfinished"
    return Trial(
        name=trial["trial_id"],
        values={name: value for name, value in values.items() if not name.startswith("tuner/")},
        score=score,
        state="over budget" if over_budget else ended,
        epochs=values.get("tuner/epochs"),
        reason=(trial["message"] or "").strip().rpartition("\n")[2],
    )


def _best(metric, direction):
    means = [float(np.mean(observation["value"])) for observation in metric["observations"]]
    return max(means) if direction == "max" else min(means)


def _text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)
