"""Arms whose settings are chosen on the validation split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner

from keras_distill.experiment.arm import Arm
from keras_distill.training.term import Term
from keras_distill.tuning import spaces
from keras_distill.tuning.hypermodel import DistillationHyperModel
from keras_distill.tuning.search import Search, read_search
from keras_distill.utils.arguments import check_integer

if TYPE_CHECKING:
    from keras_distill.experiment.execution import Execution

TUNERS = ("random", "bayesian", "hyperband")


@dataclasses.dataclass(frozen=True)
class TunedArm:
    """Arm whose settings are searched on the validation split, before it is trained like any other arm.

    The trials train on the training split with the first seed and the teacher's cached outputs, and are ranked by
    `Task.monitor` on the validation split. They never read the test split. Their batch size, steps per epoch and
    transfer set are those of the arm with the default values.

    Args:
        name: Name in tables and figures, such as "distilled, tuned".
        make: Function of a `keras_tuner.HyperParameters` that returns an `Arm`, such as `tuned_objective(arm, task)`.
            The name of that arm does not matter.
        trials: Number of trials, >= 1. 10 to 50 is typical. Defaults to 20.
        tuner: "random", "bayesian" or "hyperband". Defaults to "random".
        default: Name of the arm with default settings that this one is compared with. Defaults to None.

    Raises:
        ValueError: If the number of trials or the tuner is invalid.

    Example:

    >>> from keras_distill.experiment import Arm, Classification, TunedArm, tuned_objective
    >>> arm = Arm("distilled", lambda: student, [Term(KLDivergence(2.0), weight=0.9)], supervised_weight=0.1)
    >>> tuned = TunedArm("tuned", tuned_objective(arm, Classification()), trials=20, default="distilled")
    """

    name: str
    make: Callable[[keras_tuner.HyperParameters], Arm]
    trials: int = 20
    tuner: str = "random"
    default: str | None = None

    def __post_init__(self):
        check_integer(self.trials, "trials")
        if self.tuner not in TUNERS:
            raise ValueError(f"`tuner` must be one of {TUNERS}. Received: {self.tuner!r}")

    def arm(self, values: dict[str, Any] | None = None) -> Arm:
        """Return the arm with some hyperparameters.

        Args:
            values: `{name: value}`. Defaults to None: the default values.
        """
        hp = keras_tuner.HyperParameters()
        hp.values = dict(values or {})
        arm = dataclasses.replace(self.make(hp), name=self.name)
        compared = [*(arm.baselines or ()), *([self.default] if self.default else [])]
        return dataclasses.replace(
            arm, baselines=compared or None, settings={**arm.settings, "tuned": dict(values or {})}
        )


def tuned_objective(arm: Arm, task: Any, max_epochs: int | None = None) -> Callable[..., Arm]:
    """Return a function of hyperparameters that varies temperature, weights and number of epochs of an arm.

    The temperature is searched from 1 to 16, the weight `alpha` of the labels from 0 to 0.9, and the number of epochs
    among that of the arm, half and twice of it. The arm's terms are replaced by the task's distillation loss with the
    weight `1 - alpha`.

    Args:
        arm: The `Arm` with the default settings.
        task: The `Task`.
        max_epochs: Largest number of epochs. Defaults to None: twice that of the arm.
    """
    longest = 2 * arm.epochs if max_epochs is None else max_epochs
    choices = sorted({min(max(1, count), longest) for count in (arm.epochs // 2, arm.epochs, 2 * arm.epochs)})

    def make(hp: keras_tuner.HyperParameters) -> Arm:
        temperature, alpha = spaces.temperature(hp), spaces.alpha(hp)
        epochs = hp.Choice("epochs", choices, default=min(arm.epochs, longest))
        terms = [Term(task.distillation_loss(temperature), weight=1 - alpha)]
        return dataclasses.replace(arm, terms=terms, supervised_weight=alpha, epochs=epochs)

    return make


def search(tuned: TunedArm, execution: Execution) -> tuple[Arm, Search]:
    """Search the settings of an arm, or resume the search.

    Args:
        tuned: The `TunedArm`.
        execution: The `Execution` with a trained teacher.

    Returns:
        The arm with the best settings, and the `Search`.
    """
    plan = execution.plan
    default = tuned.arm()
    distiller, outputs = execution.distiller(default, plan.seeds[0])
    hypermodel = _HyperModel(
        student=lambda hp: _seeded(plan.seeds[0], tuned.make(hp)),
        teacher=distiller.teacher,
        terms=lambda hp: tuned.make(hp).new_terms(distiller.student, execution.teacher(default, plan.seeds[0])),
        supervised_weight=lambda hp: tuned.make(hp).supervised_weight,
        optimizer=lambda hp: tuned.make(hp).new_optimizer(plan.num_steps(tuned.make(hp))),
        loss=plan.task.loss(distiller.student) if execution.training_data.labeled else None,
        metrics=plan.task.metrics(distiller.student) if execution.training_data.labeled else None,
    )
    hypermodel.make, hypermodel.monitor = tuned.make, plan.task.monitor
    tuner = _tuner(tuned, hypermodel, plan.task, execution)
    examples, validation = execution.training_data.examples(default), plan.data.validation
    tuner.search(
        examples.shuffled_batches(default.batch_size, outputs(examples)),
        validation_data=validation.batches(default.batch_size, outputs(validation)),
        epochs=default.epochs,
        # The datasets are shuffled.
        shuffle=False,
        verbose=0,
    )
    found = read_search(tuner.project_dir, plan.task.monitor)
    found = dataclasses.replace(found, best_model=tuned.name, default_model=tuned.default)
    return tuned.arm(found.ranked()[0].values), found


class _HyperModel(DistillationHyperModel):
    """Hypermodel whose trials train for the number of epochs of their arm."""

    make: Callable[[keras_tuner.HyperParameters], Arm]
    monitor: str

    def fit(self, hp, model, *args, **kwargs):
        # Hyperband chooses the number of epochs itself.
        if "tuner/epochs" not in hp.values:
            kwargs["epochs"] = self.make(hp).epochs
        history = super().fit(hp, model, *args, **kwargs)
        values = {name: value for name, value in hp.values.items() if not name.startswith("tuner/")}
        last = history.history[self.monitor][-1]
        print(f"trial: {self.monitor} {last:.4g}, {', '.join(f'{name} {_text(values[name])}' for name in values)}")
        return history


def _text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _seeded(seed, arm):
    # All trials start from the same initial weights.
    keras.utils.set_random_seed(seed)
    return arm.new_student()


def _tuner(tuned, hypermodel, task, execution):
    folder = pathlib.Path(execution.folder) / "search"
    settings = [
        tuned.arm().description(),
        execution.settings(tuned.arm(), execution.plan.seeds[0]),
        tuned.tuner,
        repr(task),
    ]
    # One folder per choice of settings: other settings start a new search, and more trials resume the same one.
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    objective = keras_tuner.Objective(task.monitor, task.mode)
    options = {"seed": 1, "directory": folder, "project_name": f"{tuned.tuner}_{digest}"}
    if tuned.tuner == "random":
        return keras_tuner.RandomSearch(hypermodel, objective, tuned.trials, **options)
    if tuned.tuner == "bayesian":
        return keras_tuner.BayesianOptimization(hypermodel, objective, tuned.trials, **options)
    # Iterations of Hyperband until the maximum number of trials is reached.
    tuner = keras_tuner.Hyperband(
        hypermodel, objective, tuned.arm().epochs, hyperband_iterations=tuned.trials, **options
    )
    tuner.oracle.max_trials = tuned.trials
    return tuner
