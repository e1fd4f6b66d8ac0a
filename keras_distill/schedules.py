"""Numbers that change with the optimizer's step: temperatures and weights.

Any `keras.optimizers.schedules.LearningRateSchedule` serves. Those here lead from one value to another, take values in
turn, or stop. Where they take a value they take a schedule too, which sees the same step: `StopAfter(WarmUp(1.0, 500),
9_000)`.
"""

import itertools
import math
import numbers

import keras
from keras import ops

Schedule = keras.optimizers.schedules.LearningRateSchedule


def value_at(value, step):
    """The number, or what the schedule says at `step`.

    Evaluated in the graph, from the optimizer's own counter: it survives `save`, `load_distiller` and a resumed `fit`.

    Args:
        value: A number or a schedule.
        step: Scalar integer tensor.

    Returns:
        A float, or a scalar float32 tensor.
    """
    return ops.cast(value(step), "float32") if isinstance(value, Schedule) else value


def check_positive(value, name, zero=False, schedule=True):
    """`value` as a Python float; a schedule is returned as it is.

    Args:
        value: A number, NumPy's included, or a schedule.
        name: What to call it in the error.
        zero: Whether 0 is allowed too.
        schedule: Whether a schedule is.

    Raises:
        ValueError: For a boolean, NaN, infinity, a negative number, zero or a schedule unless allowed, or no number at
            all.
    """
    if schedule and isinstance(value, Schedule):
        return value
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        allowed = f"{'0 or more' if zero else 'above 0'}{', or a schedule' if schedule else ''}"
        raise ValueError(f"`{name}` must be a finite number {allowed}. Received: {value!r}")
    return float(value)


def deserialize_values(config):
    """The settings of a saved config, schedules and losses among them made anew.

    Keras writes an object inside a config, but hands it back as the dictionary it was written as.

    Args:
        config: What `get_config` returned, before or after it was written.
    """
    # Keras does revive the dtype, and can write an object without `get_config` again only if that stays a dictionary.
    return {key: value if key == "dtype" else _revived(value) for key, value in config.items()}


def _revived(value):
    if isinstance(value, list):
        return [_revived(entry) for entry in value]
    written = isinstance(value, dict) and "class_name" in value
    return keras.saving.deserialize_keras_object(value) if written else value


class _Nesting(Schedule):
    """A schedule whose values may be schedules. Abstract."""

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_values(config))


class _Ramp(_Nesting):
    """From `start` to `end` within `steps` steps, then `end` for good. Abstract."""

    def __init__(self, start, end, steps):
        self.start = check_positive(start, "start", zero=True)
        self.end = check_positive(end, "end", zero=True)
        self.steps = check_positive(steps, "steps", schedule=False)

    def __call__(self, step):
        way = ops.clip(ops.cast(step, "float32") / self.steps, 0.0, 1.0)
        start, end = (value_at(value, step) for value in (self.start, self.end))
        return start + (end - start) * self.share(way)

    def share(self, way):
        """How much of the change is made, 0 to 1, when `way`, 0 to 1, of the steps are done."""
        raise NotImplementedError

    def get_config(self):
        return {"start": self.start, "end": self.end, "steps": self.steps}


@keras.saving.register_keras_serializable("keras_distill")
class Linear(_Ramp):
    """From `start` to `end` in a straight line.

    Args:
        start: The value at step 0.
        end: The value from step `steps` on.
        steps: Optimizer steps; an epoch has as many as it has batches.
    """

    def share(self, way):
        return way


@keras.saving.register_keras_serializable("keras_distill")
class CosineDecay(_Ramp):
    """From `start` to `end` along half a cosine: slowly, faster, slowly.

    Args:
        start: The value at step 0.
        end: The value from step `steps` on.
        steps: Optimizer steps.

    Reference:
        Loshchilov and Hutter, ICLR 2017, https://arxiv.org/abs/1608.03983
    """

    def share(self, way):
        return (1.0 - ops.cos(math.pi * way)) / 2.0


@keras.saving.register_keras_serializable("keras_distill")
class WarmUp(_Ramp):
    """From 0 to `value` in a straight line.

    Args:
        value: The value from step `steps` on.
        steps: Optimizer steps.

    Reference:
        As the weight of decoupled KD: Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679
    """

    def __init__(self, value, steps):
        super().__init__(0.0, value, steps)

    def share(self, way):
        return way

    def get_config(self):
        return {"value": self.end, "steps": self.steps}


@keras.saving.register_keras_serializable("keras_distill")
class Piecewise(_Nesting):
    """Values in turn: the first before step `boundaries[0]`, the second before `boundaries[1]`, the last for good.

    ```
    Piecewise([1_000, 3_000], [8.0, 4.0, 1.0])     # 8 for 1,000 steps, 4 for 2,000, then 1
    ```

    Args:
        boundaries: Optimizer steps, in ascending order.
        values: Numbers, 0 or more, or schedules; one more than there are boundaries.

    Raises:
        ValueError: If the boundaries do not ascend or are not one fewer than the values.
    """

    def __init__(self, boundaries, values):
        self.boundaries = [check_positive(boundary, "boundaries", schedule=False) for boundary in boundaries]
        self.values = [check_positive(value, "values", zero=True) for value in values]
        if any(later <= earlier for earlier, later in itertools.pairwise(self.boundaries)):
            raise ValueError(f"`boundaries` must ascend. Received: {boundaries!r}")
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"`values` must be one more than `boundaries`. Received: {len(self.values)} values, "
                f"{len(self.boundaries)} boundaries."
            )

    def __call__(self, step):
        result = value_at(self.values[-1], step)
        for boundary, value in reversed(list(zip(self.boundaries, self.values))):
            result = ops.where(ops.cast(step, "float32") < boundary, value_at(value, step), result)
        return result

    def get_config(self):
        return {"boundaries": self.boundaries, "values": self.values}


@keras.saving.register_keras_serializable("keras_distill")
class StopAfter(_Nesting):
    """`value` for `steps` steps, then 0: as a weight, of a term that stops.

    A student too small for its teacher gains from it early in training and is held back by it later.

    Args:
        value: A number or a schedule.
        steps: Optimizer steps.

    Reference:
        Cho and Hariharan, ICCV 2019, https://arxiv.org/abs/1910.01348
    """

    def __init__(self, value, steps):
        self.value = check_positive(value, "value", zero=True)
        self.steps = check_positive(steps, "steps", schedule=False)

    def __call__(self, step):
        return ops.where(ops.cast(step, "float32") < self.steps, value_at(self.value, step), 0.0)

    def get_config(self):
        return {"value": self.value, "steps": self.steps}
