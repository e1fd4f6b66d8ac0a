"""A search space of distillations."""

import contextlib
import copy
import functools
import inspect
import warnings
import weakref

import keras
import keras_tuner
import numpy as np

from keras_distill import _compat
from keras_distill.teachers import Teacher
from keras_distill.training.distiller import Distiller
from keras_distill.tuning.budget import Costs, Worse, untrained, validates


class DistillationHyperModel(keras_tuner.HyperModel):
    """Makes a compiled `Distiller` of each trial's hyperparameters, for any tuner of KerasTuner.

    ```python
    def terms(hp):
        return [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))]

    hypermodel = DistillationHyperModel(
        student=lambda hp: cnn(spaces.width(hp, 8, 64)),
        teacher=stored.teacher,
        terms=terms,
        supervised_weight=spaces.alpha,
        optimizer=spaces.optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    tuner = keras_tuner.Hyperband(hypermodel, "val_accuracy", max_epochs=30, directory="runs", project_name="search")
    tuner.search(stored.load(x_train), y_train, validation_data=(x_validation, y_validation))
    tuner.get_best_models()[0].student.save("student.keras")
    ```

    A function (`def`, `lambda`, a method or `functools.partial`) is called with `hp` in every trial; anything else is
    the same for all. A loss or schedule that is a function itself goes behind a `lambda hp:`.

    One teacher serves all trials. Give it as `cached(...).teacher`, and it never runs in the search; or as a model,
    which stays in memory once. It is neither copied, nor changed, nor written into a trial: a trial holds the weights
    of student, heads and losses, and the optimizer's state, with which Hyperband goes on.

    What KerasTuner keeps to itself is told: a trial that fails, by a warning with its hyperparameters and the reason;
    an objective that nothing yields, by an error after the first step, or after the first epoch if there are callbacks
    that might yield it.

    Args:
        student: A function that makes a new, untrained `keras.Model`.
        teacher: As for `Distiller`, the same for all trials. With a `distribution_strategy`, a model and the tuner are
            both made within its scope. None, with no terms, searches for the best student without a teacher.
        terms: A list of `Term`, or a function that makes it.
        supervised_weight: As for `Distiller`, or a function that gives it.
        optimizer, loss, metrics: As for `compile`, or functions that give them. Objects serve as patterns, of which
            each trial makes its own. Give them here, not to the tuner.
        inputs: As for `Distiller`.
        budget: A `Budget`, the most that a student may cost. Defaults to none.
        **options: Others of `compile`.

    Raises:
        ValueError: When the tuner is made, as `Distiller` does.
        keras_tuner.errors.FatalTypeError, keras_tuner.errors.FatalValueError: Which end a search: if `student` gives no
            model, or trains the weights of the trial before; if no metric has the objective's name; if the tuner was
            given `optimizer`, `loss` or `metrics`.
    """

    def __init__(
        self,
        student,
        teacher,
        terms,
        supervised_weight=1.0,
        optimizer="adam",
        loss=None,
        metrics=None,
        inputs=None,
        budget=None,
        **options,
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
        self._before = []

    def build(self, hp):
        with _telling(hp):
            student = _value(self.student, hp)
            if not isinstance(student, keras.Model):
                raise keras_tuner.errors.FatalTypeError(
                    f"`student` must be a function of hp that makes a keras.Model. It gave {student!r} "
                    f"for {_shown(hp)}."
                )
            # A Teacher knows the taps of one distiller; of two best models each has its own. Its models are the same.
            teacher = copy.copy(self.teacher) if isinstance(self.teacher, Teacher) else self.teacher
            weight = _value(self.supervised_weight, hp)
            distiller = Distiller(
                student=student,
                teacher=teacher,
                terms=_value(self.terms, hp),
                supervised_weight=weight,
                inputs=self.inputs,
            )
            self._check_anew(student)
            compiled = {name: _own(_value(getattr(self, name), hp)) for name in ("optimizer", "loss", "metrics")}
            distiller.compile(**compiled, **_own(self.options))
        return distiller

    def fit(self, hp, model, *args, callbacks=(), **kwargs):
        given = inspect.signature(keras.Model.fit).bind(model, *args, **kwargs).arguments
        with _telling(hp):
            costs = {} if self.budget is None else self.budget.costs(model.student)
            excess = [] if self.budget is None else self.budget.excess(costs)
            if self.budget is not None:
                costs["over_budget"] = float(bool(excess))
            callbacks = _arranged(list(callbacks), validates(given), costs, trained=not excess)
            if not excess:
                return model.fit(*args, callbacks=callbacks, **kwargs)
            warnings.warn(
                f"The student of {_shown(hp)} is over the budget and not trained: {'; '.join(excess)}.", stacklevel=2
            )
            return untrained(model, given, callbacks)

    def _check_anew(self, student):
        """Refuses a student that goes on where the one before it ended."""
        weights = {id(weight): weight.path for weight in student.trainable_weights}
        shared = [weights[id(weight)] for reference in self._before if id(weight := reference()) in weights]
        if shared:
            raise keras_tuner.errors.FatalValueError(
                f"`student` gave '{student.name}' with the weights {shared[:3]} of the trial before, which are trained "
                "already. Let it make a new model of new layers."
            )
        self._before = [weakref.ref(weight) for weight in student.trainable_weights]


class _Watch(keras.callbacks.Callback):
    """Ends a search whose objective nothing yields, and a trial whose objective is NaN from the first epoch on."""

    def __init__(self, objective, validated, costs, early):
        super().__init__()
        self.objective = objective
        self.validated = validated
        self.costs = costs
        self.early = early
        self.seen = False

    def on_train_batch_end(self, batch, logs=None):
        if self.early:
            self.early = False
            validation = {f"val_{name}": value for name, value in logs.items()} if self.validated else {}
            self._check({**logs, **validation, **self.costs})

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs)
        # KerasTuner would take no later epoch for better than this one, and say nothing.
        if not self.seen and np.isnan(self.objective.get_value(logs)):
            raise ValueError(f"{self.objective} is NaN after its first epoch, number {epoch + 1}.")
        self.seen = True

    def _check(self, logs):
        if not self.objective.has_value(logs):
            without = "" if self.validated else " There are no validation data."
            raise keras_tuner.errors.FatalValueError(
                f"Nothing yields {self.objective}. A trial logs {sorted(logs)}.{without}"
            )


def _arranged(callbacks, validated, costs, trained):
    """The callbacks with those of the hypermodel among them, each where it sees what the ones before it log."""
    tuner_callback = _compat.tuner_callback_class()
    place = next((place for place, callback in enumerate(callbacks) if isinstance(callback, tuner_callback)), None)
    if place is None:
        return [Costs(costs), *callbacks]
    own, tuner = callbacks[:place], callbacks[place].tuner
    given = [name for name in ("optimizer", "loss", "metrics") if getattr(tuner, name)]
    if given:
        raise keras_tuner.errors.FatalValueError(
            f"Give {given} to the DistillationHyperModel. A tuner that is given them compiles the distiller anew, with "
            "its losses for metrics."
        )
    objective = tuner.oracle.objective
    watch = _Watch(objective, validated, costs, early=not own)
    return [Costs(costs), *own, *([] if trained else [Worse(objective)]), *callbacks[place:], watch]


@contextlib.contextmanager
def _telling(hp):
    """Warns of what fails; KerasTuner keeps it in a file."""
    try:
        yield
    except keras_tuner.errors.FatalError:
        raise
    except Exception as error:
        warnings.warn(f"The trial of {_shown(hp)} fails. {type(error).__name__}: {error}", stacklevel=4)
        raise


def _value(given, hp):
    """What is meant in this trial."""
    return given(hp) if inspect.isroutine(given) or isinstance(given, functools.partial) else given


def _own(structure):
    """Optimizers and metrics of the trial's own, made like the given ones."""
    kinds = keras.optimizers.Optimizer, keras.metrics.Metric
    return keras.tree.map_structure(
        lambda value: type(value).from_config(value.get_config()) if isinstance(value, kinds) else value, structure
    )


def _shown(hp):
    return {name: value for name, value in hp.values.items() if not name.startswith("tuner/")}
