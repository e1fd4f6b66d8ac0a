"""Weights of losses: the contract of numbers, schedules, `Balance` and weights of users."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras

from keras_distill.data.batch import Batch
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


class LossWeight:
    """Factor that a distiller multiplies a loss with. Base class.

    A subclass implements `value`. One with state is also a `keras.layers.Layer`, so that its variables are saved with
    the distiller; it creates them in `build()`, moves them in `update` and is logged as `<name>_weight`. To save the
    distiller, a weight also has a `get_config` and is registered with `keras.saving.register_keras_serializable`.

    Attributes:
        state: Variables that `update` assigns. Empty for a weight that depends on the step alone.
        needs_supervised_loss: Whether `update` reads the supervised loss, so that `compile` must get a loss and every
            training batch must have labels.

    Example:
    >>> class Halving(LossWeight):
    ...     def value(self, step):
    ...         return 0.5 ** (ops.cast(step, "float32") / 1000.0)
    >>> term = Term(KLDivergence(), weight=Halving())
    """

    state = ()
    needs_supervised_loss = False

    def value(self, step: Tensor) -> Tensor:
        """Return the weight at an optimizer step.

        Args:
            step: Scalar integer tensor.

        Returns:
            Unitless, a float or a float32 scalar without gradient.
        """
        raise NotImplementedError

    def peak(self, steps: Iterable[Tensor], loss: float, supervised: float) -> float:
        """Return the largest weight at some steps, for the pre-flight check.

        Args:
            steps: Scalar integer tensors.
            loss: Value of the loss that is weighted.
            supervised: Value of the supervised loss.
        """
        return max(float(self.value(step)) for step in steps)

    def update(self, loss: Tensor, supervised: Tensor, batch: Batch) -> None:
        """Update the state; called in every training step, before `value`. Does nothing by default.

        Args:
            loss: The loss that is weighted, a float32 scalar: the mean over this replica's examples.
            supervised: The supervised loss, a float32 scalar: the mean over this replica's examples.
            batch: The `Batch`.
        """


class Scheduled(LossWeight):
    """Weight that is a number or a schedule.

    Args:
        schedule: Number, or a schedule evaluated at the optimizer's step.
    """

    def __init__(self, schedule: ScheduleLike):
        self.schedule = schedule

    def value(self, step):
        return value_at(self.schedule, step)


class WeightedLoss(NamedTuple):
    """Part of the total loss.

    Attributes:
        title: Name in messages, such as "term 'hint'".
        weight: A `LossWeight`.
        total: Log name of the sum that the weighted loss is added to.
        supervised: Log name of the supervised loss that a weight may depend on.
        weight_name: Log name of the weight.
    """

    title: str
    weight: LossWeight
    total: str = "loss"
    supervised: str = "supervised_loss"
    weight_name: str | None = None


def check_weight(weight: Any, name: str) -> ScheduleLike | LossWeight:
    """Return a weight; a number as a Python float.

    Args:
        weight: A number >= 0, a schedule or a `LossWeight`.
        name: Name of the argument, for the error.

    Raises:
        ValueError: For a negative number, NaN, infinity or another type.
    """
    return weight if isinstance(weight, LossWeight) else check_positive(weight, name, zero=True)


def as_weight(weight: ScheduleLike | LossWeight) -> LossWeight:
    """Return a number or a schedule as a `LossWeight`; a `LossWeight` is returned as it is."""
    return weight if isinstance(weight, LossWeight) else Scheduled(weight)


def serialize_weight(weight: ScheduleLike | LossWeight) -> Any:
    """Return a weight in the form that Keras serializes."""
    return weight if isinstance(weight, float) else keras.saving.serialize_keras_object(weight)


def weighted_losses(supervised_weight: ScheduleLike, terms: Any) -> dict[str, WeightedLoss]:
    """Return the parts of the total loss of a student, `{log name: WeightedLoss}`.

    Args:
        supervised_weight: Weight of the supervised loss.
        terms: The `Term`s.
    """
    supervised = as_weight(supervised_weight)
    parts = {"supervised_loss": WeightedLoss("the supervised loss", supervised, weight_name="supervised_weight")}
    for term in terms:
        title, weight = f"term '{term.name}'", as_weight(term.weight)
        parts[f"{term.name}_loss"] = WeightedLoss(title, weight, weight_name=f"{term.name}_weight")
    return parts
