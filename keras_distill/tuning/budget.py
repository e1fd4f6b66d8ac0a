"""What a student may cost: parameters, memory, time."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression.profiling import count_parameters
from keras_distill.compression.runtimes import latency
from keras_distill.models.specs import input_specs
from keras_distill.schedules import check_positive

_REPEATS = 30


@dataclasses.dataclass(frozen=True)
class Budget:
    """The most that a student may cost.

    ```python
    DistillationHyperModel(..., budget=Budget(parameters=50_000, milliseconds=2.0))
    ```

    A trial whose student costs more is told so by a warning and not trained. It counts as completed, with a score worse
    than the untrained student's: the search goes on, learns to stay away from such students, and promotes and returns
    others.

    What is limited is measured for every trial and joins its metrics, with `over_budget`, which is 1 or 0. An objective
    may name it: `keras_tuner.Objective("milliseconds", "min")`. A limit of `math.inf` measures and refuses nothing.

    Args:
        parameters: Number of weights, the untrained ones included.
        megabytes: What the weights take, 10^6 bytes each.
        milliseconds: Median time of a prediction on this machine, with all else that it does meanwhile.
        batch_size: Examples of such a prediction. Default 1.

    Raises:
        ValueError: For a limit that is not above 0, or if there is none.
    """

    parameters: float | None = None
    megabytes: float | None = None
    milliseconds: float | None = None
    batch_size: int = 1

    def __post_init__(self):
        for name, limit in self._limits().items():
            if limit != math.inf:
                check_positive(limit, name, schedule=False)
        if not self._limits():
            raise ValueError("A Budget limits `parameters`, `megabytes` or `milliseconds`. Received none of them.")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"`batch_size` must be an integer above 0. Received: {self.batch_size!r}")

    def costs(self, student):
        """What is limited of a student: `{name: number}`.

        Args:
            student: A built `keras.Model`.

        Raises:
            ValueError: If its time is limited and its inputs have lengths that are not known.
        """
        measures = {"parameters": count_parameters, "megabytes": _megabytes, "milliseconds": self._milliseconds}
        return {name: measures[name](student) for name in self._limits()}

    def excess(self, costs):
        """In which respects costs are over the budget, a list of texts such as "62,006 parameters of 50,000"."""
        limits = self._limits()
        return [f"{cost:,.6g} {name} of {limits[name]:,.6g}" for name, cost in costs.items() if cost > limits[name]]

    def _limits(self):
        limits = {name: getattr(self, name) for name in ("parameters", "megabytes", "milliseconds")}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def _milliseconds(self, student):
        specs = input_specs(None, student)
        shapes = [tuple(spec.shape[1:]) for spec in keras.tree.flatten(specs)]
        if any(None in shape for shape in shapes):
            raise ValueError(
                f"The time of a prediction of '{student.name}' depends on its inputs, whose shapes {shapes} are open. "
                "Give it an Input of fixed shape, or leave `milliseconds` out."
            )
        inputs = keras.tree.map_structure(lambda spec: tf.zeros((self.batch_size, *spec.shape[1:]), spec.dtype), specs)
        predict = tf.function(lambda x: student(x, training=False))
        median, _ = latency(lambda x: keras.tree.map_structure(np.asarray, predict(x)), inputs, _REPEATS)
        return median


def _megabytes(student):
    return sum(math.prod(weight.shape) * tf.as_dtype(weight.dtype).size for weight in student.weights) / 1e6


class Costs(keras.callbacks.Callback):
    """Adds what a student costs to the logs of every epoch."""

    def __init__(self, costs):
        super().__init__()
        self.costs = costs

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.costs)


class Worse(keras.callbacks.Callback):
    """Makes an objective worse in the logs, by 1 and its own size: worse than any accuracy, or than what learns at all.

    Args:
        objective: A `keras_tuner.Objective`, or KerasTuner's own kind for several.
    """

    def __init__(self, objective):
        super().__init__()
        self.objectives = getattr(objective, "objectives", [objective])

    def on_epoch_end(self, epoch, logs=None):
        for objective in self.objectives:
            if objective.name in logs:
                by = 1 + abs(logs[objective.name])
                logs[objective.name] += by if objective.direction == "min" else -by


def untrained(model, given, callbacks):
    """The history of an epoch without steps: metrics of the model as it is, under the names of a trained one.

    Args:
        model: A compiled `keras.Model`.
        given: `{name: argument}` of `fit`.
        callbacks: Those of `fit`; they see the epoch.
    """
    validation = given.get("validation_data")
    data = (given.get("x"), given.get("y"), given.get("sample_weight")) if validation is None else validation
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    steps = given.get("steps_per_epoch" if validation is None else "validation_steps")
    options = {"batch_size": given.get("batch_size"), "steps": steps, "verbose": 0, "return_dict": True}
    logs = model.evaluate(x, y, sample_weight=sample_weight, **options)
    if validates(given):
        logs |= {f"val_{name}": value for name, value in logs.items()}
    epoch = given.get("initial_epoch", 0)
    seen_by = keras.callbacks.CallbackList(callbacks, add_history=True, model=model, epochs=epoch + 1, steps=0)
    seen_by.on_train_begin()
    seen_by.on_epoch_begin(epoch)
    seen_by.on_epoch_end(epoch, logs)
    seen_by.on_train_end(logs)
    return model.history


def validates(given):
    """Whether the arguments of a `fit` ask for a validation."""
    return given.get("validation_data") is not None or bool(given.get("validation_split"))
