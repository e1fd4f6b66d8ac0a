"""Numbers that change with the optimizer's step: temperatures and weights.

Any `keras.optimizers.schedules.LearningRateSchedule` serves; those here lead from one value to another. For constants
in turn, or a term that stops, take `keras.optimizers.schedules.PiecewiseConstantDecay`.
"""

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


def positive(value, name, zero=False):
    """`value` as a Python float; a schedule is returned as it is.

    Args:
        value: A number, NumPy's included, or a schedule.
        name: What to call it in the error.
        zero: Whether 0 is allowed too.

    Raises:
        ValueError: For a boolean, NaN, infinity, a negative number, zero unless allowed, or no number at all.
    """
    if isinstance(value, Schedule):
        return value
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        least = "0 or more" if zero else "above 0"
        raise ValueError(f"`{name}` must be a finite number {least}, or a schedule. Received: {value!r}")
    return float(value)


class _Ramp(Schedule):
    """From `start` to `end` within `steps` steps, then `end` for good. Abstract."""

    def __init__(self, start, end, steps):
        self.start = positive(start, "start", zero=True)
        self.end = positive(end, "end", zero=True)
        self.steps = positive(steps, "steps")

    def __call__(self, step):
        way = ops.clip(ops.cast(step, "float32") / self.steps, 0.0, 1.0)
        return self.start + (self.end - self.start) * self.share(way)

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
class Cosine(_Ramp):
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
