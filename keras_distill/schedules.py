"""Schedules for temperatures and loss weights.

Any `keras.optimizers.schedules.LearningRateSchedule` can be used, too. Schedules can be nested: wherever a schedule
takes a value, it takes another schedule, which is evaluated at the same step, as in `StopAfter(WarmUp(1.0, 500),
9_000)`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_number

__all__ = ["CosineDecay", "Linear", "Piecewise", "Schedule", "StopAfter", "WarmUp"]

Schedule = keras.optimizers.schedules.LearningRateSchedule


def value_at(value: ScheduleLike | None, step: int | Tensor) -> float | Tensor | None:
    """Return a number unchanged and evaluate a schedule at a step.

    The schedule is evaluated in the graph at the optimizer's own counter, so it continues correctly after `save`,
    `load_distiller` and a resumed `fit`.

    Args:
        value: A number, a schedule, or None.
        step: The optimizer's step, a scalar integer.

    Returns:
        The number or None, or a scalar float32 tensor.
    """
    return ops.cast(value(step), "float32") if isinstance(value, Schedule) else value


def check_positive(value: Any, name: str, zero: bool = False, schedule: bool = True) -> float | Schedule:
    """Return a positive number as a Python float, and a schedule unchanged.

    Args:
        value: A number, NumPy's included, or a schedule.
        name: Name of the argument, for the error.
        zero: True to allow 0, too. Defaults to False.
        schedule: True to allow a schedule. Defaults to True.

    Returns:
        The float, or the schedule.

    Raises:
        ValueError: For a boolean, NaN, an infinity, a negative number, any other type, and for 0 or a schedule unless
            allowed.
    """
    if schedule and isinstance(value, Schedule):
        return value
    bound = {"at_least": 0} if zero else {"above": 0}
    return check_number(value, name, **bound, alternative=" or a schedule" if schedule else "")


def check_fraction(value: Any, name: str) -> float | Schedule:
    """Return a number from 0 to 1 as a Python float, and a schedule unchanged.

    Args:
        value: A number, NumPy's included, or a schedule.
        name: Name of the argument, for the error.

    Raises:
        ValueError: For any other value.
    """
    return (
        value
        if isinstance(value, Schedule)
        else check_number(value, name, at_least=0, at_most=1, alternative=" or a schedule")
    )


def deserialize_values(config: dict[str, Any]) -> dict[str, Any]:
    """Deserialize the Keras objects in a config, such as schedules and losses.

    Keras serializes objects in a config but passes them to `from_config` as dictionaries.

    Args:
        config: Result of `get_config`, serialized or not.

    Returns:
        The config with objects instead of dictionaries.
    """
    # `dtype` stays a dictionary: Keras deserializes it, and cannot serialize an object without `get_config` again.
    return {key: value if key == "dtype" else _deserialize(value) for key, value in config.items()}


def _deserialize(value):
    if isinstance(value, list):
        return [_deserialize(entry) for entry in value]
    is_object = isinstance(value, dict) and "class_name" in value
    return keras.saving.deserialize_keras_object(value) if is_object else value


class _NestedSchedule(Schedule):
    """Schedule whose values may be schedules. Abstract."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Schedule":
        return cls(**deserialize_values(config))


class _Ramp(_NestedSchedule):
    """Schedule from `start` to `end` in `steps` steps, then constant. Abstract."""

    def __init__(self, start, end, steps):
        self.start = check_positive(start, "start", zero=True)
        self.end = check_positive(end, "end", zero=True)
        self.steps = check_positive(steps, "steps", schedule=False)

    def __call__(self, step: int | Tensor) -> Tensor:
        progress = ops.clip(ops.cast(step, "float32") / self.steps, 0.0, 1.0)
        start, end = value_at(self.start, step), value_at(self.end, step)
        return start + (end - start) * self._fraction(progress)

    def _fraction(self, progress):
        """Return the fraction of the change from `start` to `end`, 0 to 1, at a fraction of the steps, 0 to 1."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "steps": self.steps}


@keras.saving.register_keras_serializable("keras_distill")
class Linear(_Ramp):
    """Linear schedule from `start` to `end`, then constant.

    Args:
        start: Value at step 0, >= 0, a number or a schedule.
        end: Value from step `steps` on, >= 0, a number or a schedule.
        steps: Number of optimizer steps, > 0. One epoch has as many steps as batches.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> temperature = Linear(8.0, 2.0, steps=4)
    >>> [float(temperature(step)) for step in (0, 2, 4, 5)]
    [8.0, 5.0, 2.0, 2.0]
    >>> loss = KLDivergence(temperature=temperature)
    """

    def __init__(self, start: ScheduleLike, end: ScheduleLike, steps: float):
        super().__init__(start, end, steps)

    def _fraction(self, progress):
        return progress


@keras.saving.register_keras_serializable("keras_distill")
class CosineDecay(_Ramp):
    """Half-cosine schedule from `start` to `end`, then constant: slow at both ends.

    Unlike `keras.optimizers.schedules.CosineDecay`, `end` is a value, not a fraction of `start`, and may be above
    `start`.

    Args:
        start: Value at step 0, >= 0, a number or a schedule.
        end: Value from step `steps` on, >= 0, a number or a schedule.
        steps: Number of optimizer steps, > 0.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Loshchilov and Hutter, ICLR 2017, https://arxiv.org/abs/1608.03983

    Example:
    >>> loss = KLDivergence(temperature=CosineDecay(8.0, 1.0, steps=5_000))
    """

    def __init__(self, start: ScheduleLike, end: ScheduleLike, steps: float):
        super().__init__(start, end, steps)

    def _fraction(self, progress):
        return (1.0 - ops.cos(math.pi * progress)) / 2.0


@keras.saving.register_keras_serializable("keras_distill")
class WarmUp(_Ramp):
    """Linear warm-up from 0 to `value`, then constant.

    Args:
        value: Value from step `steps` on, >= 0, a number or a schedule.
        steps: Number of optimizer steps, > 0. Decoupled KD warms its weight up over the first 20 epochs.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        As the weight of decoupled KD: Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679

    Example:
    >>> term = Term(DecoupledKD(), weight=WarmUp(1.0, steps=500))
    """

    def __init__(self, value: ScheduleLike, steps: float):
        super().__init__(0.0, value, steps)

    def _fraction(self, progress):
        return progress

    def get_config(self) -> dict[str, Any]:
        return {"value": self.end, "steps": self.steps}


@keras.saving.register_keras_serializable("keras_distill")
class Piecewise(_NestedSchedule):
    """Piecewise constant schedule: each value until its boundary, the last one from then on.

    Unlike in `keras.optimizers.schedules.PiecewiseConstantDecay`, the new value starts at the boundary, not one step
    after it, and values may be schedules.

    Args:
        boundaries: Optimizer steps, > 0, in ascending order.
        values: Numbers >= 0 or schedules, one more than there are boundaries.

    Raises:
        ValueError: If a boundary or a value is out of its range, boundaries are not in ascending order, or there is not
            exactly one value more than boundaries.

    Example:
    >>> temperature = Piecewise([1_000, 3_000], [8.0, 4.0, 1.0])
    >>> [float(temperature(step)) for step in (0, 1_000, 3_000)]
    [8.0, 4.0, 1.0]
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[ScheduleLike]):
        self.boundaries = [check_positive(boundary, "boundaries", schedule=False) for boundary in boundaries]
        self.values = [check_positive(value, "values", zero=True) for value in values]
        if any(later <= earlier for earlier, later in itertools.pairwise(self.boundaries)):
            raise ValueError(f"`boundaries` must be in ascending order. Received: {boundaries!r}")
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"`values` must have one entry more than `boundaries`. Received: {len(self.values)} values, "
                f"{len(self.boundaries)} boundaries"
            )

    def __call__(self, step: int | Tensor) -> Tensor:
        result = value_at(self.values[-1], step)
        for boundary, value in reversed(list(zip(self.boundaries, self.values))):
            result = ops.where(ops.cast(step, "float32") < boundary, value_at(value, step), result)
        return result

    def get_config(self) -> dict[str, Any]:
        return {"boundaries": self.boundaries, "values": self.values}


@keras.saving.register_keras_serializable("keras_distill")
class StopAfter(_NestedSchedule):
    """Schedule of `value` for `steps` steps, then 0: early-stopped distillation, as the weight of a term.

    A student that is much smaller than its teacher benefits from it early in training; later, the term limits it.

    Args:
        value: Value until step `steps`, >= 0, a number or a schedule.
        steps: Number of optimizer steps, > 0.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Cho and Hariharan, ICCV 2019, https://arxiv.org/abs/1910.01348

    Example:
    >>> term = Term(KLDivergence(), weight=StopAfter(WarmUp(1.0, steps=500), steps=5_000))
    """

    def __init__(self, value: ScheduleLike, steps: float):
        self.value = check_positive(value, "value", zero=True)
        self.steps = check_positive(steps, "steps", schedule=False)

    def __call__(self, step: int | Tensor) -> Tensor:
        return ops.where(ops.cast(step, "float32") < self.steps, value_at(self.value, step), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value, "steps": self.steps}
