"""Dynamic temperature distillation by the disagreement of the models (DTD, FLSW), after focal loss."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss, LogitLossWrapper
from keras_distill.losses.class_masks import finite_logits, is_masked
from keras_distill.losses.maths import cosine_distance, float32, relative_temperatures
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def focal_temperature(
    student: Tensor,
    teacher: Tensor,
    beta: float | Tensor = 0.25,
    gamma: float | Tensor = 1.0,
    position_weight: Tensor | None = None,
) -> Tensor:
    """Compute a temperature factor for each example: low where the directions of the logits differ.

    ```
    t = max(1 + beta * (mean(w) - w), 1/10)
    w = (1 - cos(z_s, z_t))^gamma
    ```

    The mean is over the batch without padded positions.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        beta: Spread of the factors, > 0. Defaults to 0.25.
        gamma: Exponent, > 0. A larger one emphasizes the examples with the largest disagreement. Defaults to 1.
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions. None weights
            all positions equally.

    Returns:
        Unitless factor of the temperature of the inner loss, shape `[batch, positions...]`, without gradient.

    Reference:
        Wen, Lai and Qian, 2019, https://arxiv.org/abs/1911.07471. TextBrewer adds the term with `beta` to the
        temperature instead of to a factor: its `beta` is this one times the temperature of the inner loss.
    """
    student, teacher = float32(student, teacher)
    masked = ops.logical_or(is_masked(student), is_masked(teacher))
    student, teacher = (ops.where(masked, 0.0, logits) for logits in (student, teacher))
    difficulty = ops.power(cosine_distance(student, teacher), gamma)
    return relative_temperatures(difficulty, beta, position_weight)


@keras.saving.register_keras_serializable("keras_distill")
class FocalTemperature(LogitLossWrapper):
    """Dynamic temperature distillation by disagreement (DTD, FLSW): another loss of logits, with a factor per example.

    The logits of both models are divided by `focal_temperature` before the inner loss compares them. A factor of
    `T^2` in the inner loss does not follow: it uses the temperature of that loss, so an example with a lower factor has
    a larger gradient. Use this loss inside a `LogitStandardization`, not around one, which would remove the scale.

    Args:
        loss: Inner loss of logits, such as `DecoupledKD()`. Defaults to None: the loss of
            `KLDivergence(temperature=4.0)`.
        beta: Spread of the factors, > 0, a number or a schedule. 0.25 corresponds to TextBrewer's `beta=1` at
            a temperature of 4. Defaults to 0.25.
        gamma: Exponent of the disagreement, > 0, a number or a schedule. 1 to 2 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not a loss of logits, or if `beta` or `gamma` is not a finite number > 0 or a schedule;
            when built, for logits of a single class.

    Reference:
        See `focal_temperature`.

    Example:
    >>> term = Term(FocalTemperature(DecoupledKD(), beta=0.25, gamma=2.0))
    """

    relational = True
    default_temperature = 4.0

    def __init__(
        self,
        loss: DistillationLoss | None = None,
        beta: ScheduleLike = 0.25,
        gamma: ScheduleLike = 1.0,
        **kwargs: Any,
    ):
        super().__init__(loss, **kwargs)
        self.beta = check_positive(beta, "beta")
        self.gamma = check_positive(gamma, "gamma")

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student, teacher = finite_logits(student, teacher)
        beta, gamma = value_at(self.beta, batch.step), value_at(self.gamma, batch.step)
        factor = ops.expand_dims(focal_temperature(student, teacher, beta, gamma, batch.position_weight), -1)
        return self.compare_inner(student / factor, teacher / factor, batch)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta, "gamma": self.gamma}
