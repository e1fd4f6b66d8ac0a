"""Budget for students in a hyperparameter search: parameters, memory and latency."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression.profiling import count_parameters
from keras_distill.compression.runtimes import latency
from keras_distill.models.specs import input_specs
from keras_distill.utils.arguments import check_integer, check_number

_REPEATS = 30


@dataclasses.dataclass(frozen=True)
class Budget:
    """Upper limits on the cost of a student.

    A trial whose student exceeds a limit is not trained, and a warning is issued. The trial counts as completed, with a
    score worse than that of the untrained student: the search continues, avoids such students, and promotes and returns
    others.

    Each limited cost is measured for every trial and added to its metrics, together with `over_budget`, which is 1 or
    0. An objective may name such a cost: `keras_tuner.Objective("milliseconds", "min")`. A limit of `math.inf` only
    measures.

    Args:
        parameters: Maximum number of weights, non-trainable ones included. Defaults to None, no limit.
        megabytes: Maximum size of the weights, in units of 10^6 bytes. Defaults to None, no limit.
        milliseconds: Maximum median time of one prediction on this machine, under its current load. Defaults to None,
            no limit.
        batch_size: Number of examples in the timed prediction, >= 1. Defaults to 1.

    Raises:
        ValueError: If no limit is given, a limit is not > 0, or `batch_size` is not an integer >= 1.

    Example:

    >>> from keras_distill.tuning import Budget
    >>> budget = Budget(parameters=50_000, milliseconds=float("inf"))
    >>> budget.excess({"parameters": 62_006, "milliseconds": 2.5})
    ['62,006 parameters of 50,000']
    """

    parameters: float | None = None
    megabytes: float | None = None
    milliseconds: float | None = None
    batch_size: int = 1

    def __post_init__(self):
        for name, limit in self._limits().items():
            if limit != math.inf:
                check_number(limit, name, above=0)
        if not self._limits():
            raise ValueError("A Budget needs at least one limit: pass `parameters`, `megabytes` or `milliseconds`.")
        check_integer(self.batch_size, "batch_size")

    def costs(self, student: keras.Model) -> dict[str, float]:
        """Measure the limited costs of a student.

        Args:
            student: A built `keras.Model`.

        Returns:
            `{name: number}`, in the units of the limits.

        Raises:
            ValueError: If `milliseconds` is limited and the student has inputs of unknown length.
        """
        measures = {"parameters": count_parameters, "megabytes": _megabytes, "milliseconds": self._milliseconds}
        return {name: measures[name](student) for name in self._limits()}

    def excess(self, costs: dict[str, float]) -> list[str]:
        """Describe the costs that exceed their limits.

        Args:
            costs: `{name: number}`, as `costs` returns them.

        Returns:
            List of texts such as "62,006 parameters of 50,000"; empty if all costs are within the budget.
        """
        limits = self._limits()
        return [f"{cost:,.6g} {name} of {limits[name]:,.6g}" for name, cost in costs.items() if cost > limits[name]]

    def _limits(self):
        limits = {
            "parameters": self.parameters,
            "megabytes": self.megabytes,
            "milliseconds": self.milliseconds,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}

    def _milliseconds(self, student):
        specs = input_specs(None, student)
        shapes = [tuple(spec.shape[1:]) for spec in keras.tree.flatten(specs)]
        if any(None in shape for shape in shapes):
            raise ValueError(
                f"The latency of '{student.name}' depends on the length of its inputs, whose shapes {shapes} are not "
                "fully defined. Build it with keras.Input of fixed shape, or remove `milliseconds` from the Budget."
            )
        inputs = keras.tree.map_structure(lambda spec: tf.zeros((self.batch_size, *spec.shape[1:]), spec.dtype), specs)
        predict = tf.function(lambda x: student(x, training=False))
        median, _ = latency(lambda x: keras.tree.map_structure(np.asarray, predict(x)), inputs, _REPEATS)
        return median


def _megabytes(student):
    return sum(math.prod(weight.shape) * tf.as_dtype(weight.dtype).size for weight in student.weights) / 1e6


class AddCosts(keras.callbacks.Callback):
    """Add the costs of a student to the logs of every epoch.

    Args:
        costs: `{name: number}`.
    """

    def __init__(self, costs: dict[str, float]):
        super().__init__()
        self.costs = costs

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.costs)


class WorsenObjective(keras.callbacks.Callback):
    """Make an objective worse in the logs, by 1 plus its absolute value.

    The result is worse than any accuracy, and worse than any student that learns.

    Args:
        objective: A `keras_tuner.Objective`, or KerasTuner's `MultiObjective`.
    """

    def __init__(self, objective: Any):
        super().__init__()
        self.objectives = getattr(objective, "objectives", [objective])

    def on_epoch_end(self, epoch, logs=None):
        for objective in self.objectives:
            if objective.name in logs:
                penalty = 1 + abs(logs[objective.name])
                logs[objective.name] += penalty if objective.direction == "min" else -penalty


def evaluate_untrained(
    model: keras.Model, arguments: dict[str, Any], callbacks: list[keras.callbacks.Callback]
) -> keras.callbacks.History:
    """Return the history of one epoch without steps: metrics of the untrained model, under the names of a trained one.

    Args:
        model: A compiled `keras.Model`.
        arguments: `{name: argument}` of `fit`.
        callbacks: Callbacks of `fit`; they run for the epoch.
    """
    validation = arguments.get("validation_data")
    train = (arguments.get("x"), arguments.get("y"), arguments.get("sample_weight"))
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(train if validation is None else validation)
    steps = arguments.get("steps_per_epoch" if validation is None else "validation_steps")
    options = {"batch_size": arguments.get("batch_size"), "steps": steps, "verbose": 0, "return_dict": True}
    logs = model.evaluate(x, y, sample_weight=sample_weight, **options)
    if has_validation(arguments):
        logs |= {f"val_{name}": value for name, value in logs.items()}
    epoch = arguments.get("initial_epoch", 0)
    callback_list = keras.callbacks.CallbackList(callbacks, add_history=True, model=model, epochs=epoch + 1, steps=0)
    callback_list.on_train_begin()
    callback_list.on_epoch_begin(epoch)
    callback_list.on_epoch_end(epoch, logs)
    callback_list.on_train_end(logs)
    return model.history


def has_validation(arguments: dict[str, Any]) -> bool:
    """Return True if `fit` validates with these arguments.

    Args:
        arguments: `{name: argument}` of `fit`.
    """
    return arguments.get("validation_data") is not None or bool(arguments.get("validation_split"))
