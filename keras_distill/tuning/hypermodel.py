"""Search space of distillation runs for KerasTuner."""

import contextlib
import copy
import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_distill import _compat
from keras_distill.teachers import Teacher
from keras_distill.training.distiller import Distiller
from keras_distill.tuning.budget import AddCosts, Budget, WorsenObjective, evaluate_untrained, has_validation
from keras_distill.types import Structure


class DistillationHyperModel(keras_tuner.HyperModel):
    """Hypermodel that builds a compiled `Distiller` from the hyperparameters of each trial, for any KerasTuner tuner.

    Arguments that are functions (`def`, `lambda`, a method or `functools.partial`) are called with `hp` in every trial.
    All other arguments are the same in all trials. Wrap a loss or schedule that is itself a function in a `lambda hp:`.

    All trials share one teacher. With `open_cache(...).teacher`, teacher outputs are computed once and reused by every
    trial; a model is held in memory once. The teacher is neither copied, nor changed, nor saved with a trial: a trial
    saves the weights of student, heads and losses, and the optimizer state, from which Hyperband continues.

    Errors that KerasTuner only writes to a file become visible: a failed trial issues a warning with its
    hyperparameters and the reason. An objective that no metric or callback logs raises an error after the first step,
    or after the first epoch if there are callbacks that may log it.

    Args:
        student: Function of `hp` that returns a new, untrained `keras.Model`.
        teacher: Teacher, as for `Distiller`; the same for all trials. With a `distribution_strategy`, create both the
            model and the tuner in its scope. None, together with no terms, searches for the best student without a
            teacher.
        terms: List of `Term`, or a function of `hp` that returns it.
        supervised_weight: Weight of the supervised loss, >= 0, or a function of `hp` that returns it. Defaults to 1.
        optimizer: Optimizer, as for `compile`, or a function of `hp` that returns it. Each trial makes a copy of an
            object. Pass it here and not to the tuner. Defaults to "adam".
        loss: Supervised loss, as for `compile`, or a function of `hp` that returns it. Pass it here and not to the
            tuner. Defaults to None.
        metrics: List of metrics, as for `compile`, or a function of `hp` that returns it. Each trial makes copies of
            objects. Pass them here and not to the tuner. Defaults to None.
        inputs: Specification of the inputs, as for `Distiller`. Defaults to None.
        budget: A `Budget` for the student. Defaults to None, no limit.
        **options: Further arguments of `compile`.

    Raises:
        ValueError: By the tuner's constructor, if `Distiller` raises it.
        keras_tuner.errors.FatalTypeError: Ends the search, if `student` does not return a model.
        keras_tuner.errors.FatalValueError: Ends the search, if `student` returns weights of the previous trial; if no
            metric has the name of the objective; if `optimizer`, `loss` or `metrics` were passed to the tuner.

    Example:

    >>> import keras_tuner
    >>> from keras_distill.tuning import DistillationHyperModel, spaces
    >>> hypermodel = DistillationHyperModel(
    ...     student=lambda hp: keras.models.clone_model(student),
    ...     teacher=teacher,
    ...     terms=lambda hp: [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))],
    ...     supervised_weight=spaces.alpha,
    ...     optimizer=spaces.optimizer,
    ...     loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ...     metrics=["accuracy"],
    ... )
    >>> tuner = keras_tuner.Hyperband(hypermodel, "val_accuracy", max_epochs=30, directory="search")

    Search, and save the best student:

    ```python
    tuner.search(x_train, y_train, validation_data=(x_validation, y_validation))
    tuner.get_best_models()[0].student.save("student.keras")
    ```
    """

    def __init__(
        self,
        student: Callable[[keras_tuner.HyperParameters], keras.Model],
        teacher: Any,
        terms: Any,
        supervised_weight: Any = 1.0,
        optimizer: Any = "adam",
        loss: Any = None,
        metrics: Any = None,
        inputs: Structure | None = None,
        budget: Budget | None = None,
        **options: Any,
    ):
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.terms = terms
        self.supervised_weight = supervised_weight
        self.optimizer = optimizer
        self.loss = loss
        self.metrics = metrics
        self.inputs = inputs
        self.budget = budget
        self.options = options
        self._previous_weights = []

    def build(self, hp: keras_tuner.HyperParameters) -> Distiller:
        """Return the compiled `Distiller` of a trial.

        Args:
            hp: Hyperparameters of the trial.
        """
        with _warn_on_failure(hp):
            student = _resolve(self.student, hp)
            if not isinstance(student, keras.Model):
                raise keras_tuner.errors.FatalTypeError(
                    f"`student` must be a function of `hp` that returns a new keras.Model, such as `lambda hp: "
                    f"build_student()`. Received for {_searched_values(hp)}: {student!r}"
                )
            # A Teacher holds the taps of one distiller, and two best models need one each. The copy is shallow: the
            # teacher's models are shared.
            teacher = copy.copy(self.teacher) if isinstance(self.teacher, Teacher) else self.teacher
            weight = _resolve(self.supervised_weight, hp)
            distiller = Distiller(
                student=student,
                teacher=teacher,
                terms=_resolve(self.terms, hp),
                supervised_weight=weight,
                inputs=self.inputs,
            )
            self._check_new_weights(student)
            distiller.compile(
                optimizer=_copies(_resolve(self.optimizer, hp)),
                loss=_resolve(self.loss, hp),
                metrics=_copies(_resolve(self.metrics, hp)),
                **_copies(self.options),
            )
        return distiller

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: Distiller,
        *args: Any,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train the distiller of a trial, or evaluate it untrained if its student is over the budget.

        Args:
            hp: Hyperparameters of the trial.
            model: The `Distiller` that `build` returned.
            *args: Positional arguments of `fit`.
            callbacks: Callbacks of `fit`, those of the tuner included. Defaults to none.
            **kwargs: Keyword arguments of `fit`.
        """
        arguments = inspect.signature(keras.Model.fit).bind(model, *args, **kwargs).arguments
        with _warn_on_failure(hp):
            costs = {} if self.budget is None else self.budget.costs(model.student)
            excess = [] if self.budget is None else self.budget.excess(costs)
            if self.budget is not None:
                costs["over_budget"] = float(bool(excess))
            callbacks = _ordered_callbacks(list(callbacks), has_validation(arguments), costs, trained=not excess)
            if not excess:
                return model.fit(*args, callbacks=callbacks, **kwargs)
            warnings.warn(
                f"The student of trial {_searched_values(hp)} is over the budget and not trained: {'; '.join(excess)}.",
                stacklevel=2,
            )
            return evaluate_untrained(model, arguments, callbacks)

    def _check_new_weights(self, student):
        """Raise FatalValueError if the student has trainable weights of the previous one."""
        weights = {id(weight): weight.path for weight in student.trainable_weights}
        shared = [weights[id(weight)] for reference in self._previous_weights if id(weight := reference()) in weights]
        if shared:
            raise keras_tuner.errors.FatalValueError(
                f"`student` returned '{student.name}' with weights of the previous trial, which are already trained: "
                f"{shared[:3]}. Create a new model with new layers in every call."
            )
        # Weak references, so that the previous student can be freed.
        self._previous_weights = [weakref.ref(weight) for weight in student.trainable_weights]


class _ObjectiveCheck(keras.callbacks.Callback):
    """End a search whose objective is not logged, and a trial whose objective is NaN after its first epoch."""

    def __init__(self, objective, validated, costs, after_first_step):
        super().__init__()
        self.objective = objective
        self.validated = validated
        self.costs = costs
        self.after_first_step = after_first_step
        self.first_epoch = True

    def on_train_batch_end(self, batch, logs=None):
        if self.after_first_step:
            self.after_first_step = False
            validation = {f"val_{name}": value for name, value in logs.items()} if self.validated else {}
            self._check({**logs, **validation, **self.costs})

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs)
        # KerasTuner does not consider any later epoch better than NaN, and does not report it.
        if self.first_epoch and np.isnan(self.objective.get_value(logs)):
            raise ValueError(f"{self.objective} is NaN after the first epoch of the trial (epoch {epoch + 1}).")
        self.first_epoch = False

    def _check(self, logs):
        if not self.objective.has_value(logs):
            advice = "" if self.validated else " There are no validation data: pass `validation_data` to `search`."
            raise keras_tuner.errors.FatalValueError(
                f"{self.objective} is not logged by any metric or callback. Available: {sorted(logs)}.{advice}"
            )


def _ordered_callbacks(callbacks, validated, costs, trained):
    """Insert the callbacks of the hypermodel, each after those whose logs it reads."""
    tuner_callback = _compat.tuner_callback_class()
    position = next((place for place, callback in enumerate(callbacks) if isinstance(callback, tuner_callback)), None)
    if position is None:
        return [AddCosts(costs), *callbacks]
    users, tuner = callbacks[:position], callbacks[position].tuner
    misplaced = [name for name in ("optimizer", "loss", "metrics") if getattr(tuner, name)]
    if misplaced:
        raise keras_tuner.errors.FatalValueError(
            f"Pass {misplaced} to the DistillationHyperModel and not to the tuner, which would compile the distiller a "
            "second time, with its losses as metrics."
        )
    objective = tuner.oracle.objective
    check = _ObjectiveCheck(objective, validated, costs, after_first_step=not users)
    worsen = [] if trained else [WorsenObjective(objective)]
    return [AddCosts(costs), *users, *worsen, *callbacks[position:], check]


@contextlib.contextmanager
def _warn_on_failure(hp):
    """Warn of the error of a failed trial, which KerasTuner only writes to a file."""
    try:
        yield
    except keras_tuner.errors.FatalError:
        raise
    except Exception as error:
        warnings.warn(f"Trial {_searched_values(hp)} failed. {type(error).__name__}: {error}", stacklevel=4)
        raise


def _resolve(argument, hp):
    """Return the value of an argument in a trial."""
    return argument(hp) if inspect.isroutine(argument) or isinstance(argument, functools.partial) else argument


def _copies(structure):
    """Replace optimizers and metrics by new ones with the same config, since they hold the state of one trial."""
    stateful = keras.optimizers.Optimizer, keras.metrics.Metric
    return keras.tree.map_structure(
        lambda value: type(value).from_config(value.get_config()) if isinstance(value, stateful) else value, structure
    )


def _searched_values(hp):
    return {name: value for name, value in hp.values.items() if not name.startswith("tuner/")}
