"""Curriculum temperature for knowledge distillation (CTKD): a temperature that is trained against the student."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss, LogitLossWrapper
from keras_distill.losses.checks import Shape
from keras_distill.losses.class_masks import finite_logits, is_masked
from keras_distill.losses.maths import float32
from keras_distill.models.masking import expand_to_rank, mean_over_positions
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor

_HIDDEN_UNITS = 32


def curriculum_temperature(
    score: Tensor, low: float | Tensor = 1.0, high: float | Tensor = 21.0, reversal: float | Tensor = 1.0
) -> Tensor:
    """Compute a temperature between two bounds, with a gradient reversal layer.

    ```
    T = low + (high - low) * sigmoid(score)
    ```

    The gradient with respect to the score is multiplied by `-reversal`: gradient descent then increases the loss in the
    score, while it decreases the loss in all other weights.

    Args:
        score: Any shape.
        low: Lower bound of the temperature, > 0. Defaults to 1.
        high: Upper bound of the temperature, > `low`. Defaults to 21.
        reversal: Factor of the reversed gradient, >= 0. Defaults to 1.

    Returns:
        Unitless, the shape of the score.

    Reference:
        Li et al., AAAI 2023, https://arxiv.org/abs/2211.16231
    """
    (score,) = float32(score)
    constant = ops.stop_gradient(score)
    # The bracket is exactly 0 and has the gradient of the score.
    return low + (high - low) * ops.sigmoid(constant - reversal * (score - constant))


@keras.saving.register_keras_serializable("keras_distill")
class CurriculumTemperature(LogitLossWrapper):
    """Curriculum temperature loss (CTKD): `T^2` times another loss of logits divided by a trained temperature `T`.

    The temperature is trained to increase the loss while the student is trained to decrease it. `reversal` is the
    strength of this adversary: a schedule from 0 to 1 makes the task harder step by step, as the authors do during
    their first 10 epochs. A temperature of the inner loss multiplies the trained one: pass an inner loss with a
    temperature of 1. Initially, the temperature is that of the authors' code, `low + 0.73 * (high - low)`.

    Use this loss inside a `LogitStandardization`, not around one, which would remove the scale.

    Args:
        loss: Inner loss of logits, such as `DecoupledKD(temperature=1.0)`. Defaults to None: the loss of
            `KLDivergence(temperature=1.0)`.
        low: Lower bound of the temperature, > 0, a number or a schedule. Defaults to 1.0.
        high: Upper bound of the temperature, > `low`, a number or a schedule. Defaults to 21.0, as in the paper.
        reversal: Factor of the reversed gradient, >= 0, a number or a schedule, typically from 0 to 1. 0 keeps the
            temperature constant. Defaults to 1.0.
        instance: Whether each example has its own temperature (instance-wise CTKD), predicted from the logits of both
            models by a network with one hidden layer. No gradient flows from this network to the logits. Defaults to
            False: one temperature for all examples (global CTKD).
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not a loss of logits, if `low` or `high` is not a finite number > 0 or a schedule, if
            `reversal` is not a finite number >= 0 or a schedule, or if `high` is not above `low`; when built, for
            logits of a single class.

    Reference:
        See `curriculum_temperature`.

    Example:
    >>> loss = CurriculumTemperature(DecoupledKD(temperature=1.0), reversal=CosineDecay(0.0, 1.0, steps=4_000))
    >>> term = Term(loss, weight=0.9)
    """

    default_temperature = 1.0

    def __init__(
        self,
        loss: DistillationLoss | None = None,
        low: ScheduleLike = 1.0,
        high: ScheduleLike = 21.0,
        reversal: ScheduleLike = 1.0,
        instance: bool = False,
        **kwargs: Any,
    ):
        super().__init__(loss, **kwargs)
        self.low = check_positive(low, "low")
        self.high = check_positive(high, "high")
        if isinstance(self.low, float) and isinstance(self.high, float) and self.high <= self.low:
            raise ValueError(f"`high` must be above `low`. Received: low={low!r}, high={high!r}")
        self.reversal = check_positive(reversal, "reversal", zero=True)
        self.instance = instance

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        super().build(student_shape, teacher_shape)
        self.bias = self.add_weight(shape=(1,), initializer="ones", name="bias")
        if self.instance:
            inputs = student_shape[-1] + teacher_shape[-1]
            self.hidden_kernel = self.add_weight(shape=(inputs, _HIDDEN_UNITS), name="hidden_kernel")
            self.hidden_bias = self.add_weight(shape=(_HIDDEN_UNITS,), initializer="zeros", name="hidden_bias")
            # With zeros, all examples start at the same temperature.
            self.kernel = self.add_weight(shape=(_HIDDEN_UNITS, 1), initializer="zeros", name="kernel")

    def temperature_at(self, step: Tensor) -> float | Tensor | None:
        if self.instance:
            return None
        trained = ops.squeeze(curriculum_temperature(ops.convert_to_tensor(self.bias), *self._settings(step)))
        inner = super().temperature_at(step)
        return trained if inner is None else trained * inner

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student, teacher = finite_logits(student, teacher)
        temperature = curriculum_temperature(self._score(student, teacher, batch), *self._settings(batch.step))
        divisor = expand_to_rank(temperature, len(student.shape))
        return ops.square(temperature) * self.compare_inner(student / divisor, teacher / divisor, batch)

    def _settings(self, step):
        return (value_at(setting, step) for setting in (self.low, self.high, self.reversal))

    def _score(self, student, teacher, batch):
        """Return the score of the temperature, shape `[1]`, or `[batch]` if each example has its own temperature."""
        if not self.instance:
            return ops.convert_to_tensor(self.bias)
        logits = ops.stop_gradient(ops.concatenate([student, teacher], axis=-1))
        logits = ops.where(is_masked(logits), 0.0, logits)
        hidden = ops.relu(ops.matmul(logits, self.hidden_kernel) + self.hidden_bias)
        scores = ops.squeeze(ops.matmul(hidden, self.kernel) + self.bias, axis=-1)
        return mean_over_positions(scores, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        config = {"low": self.low, "high": self.high, "reversal": self.reversal, "instance": self.instance}
        return {**super().get_config(), **config}
