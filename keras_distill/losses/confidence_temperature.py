"""Dynamic temperature distillation by the student's confidence (DTD, CWSM)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss, LogitLossWrapper
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.maths import relative_temperatures
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def confidence_temperature(
    student: Tensor, beta: float | Tensor = 0.25, position_weight: Tensor | None = None
) -> Tensor:
    """Compute a temperature factor for each example: low where the student is uncertain.

    ```
    t = max(1 + beta * (mean(w) - w), 1/10)
    w = 1 / (max softmax(z_s) + 1/1000)
    ```

    The mean is over the batch without padded positions. The lower bound of 1/10 matters for an uncertain student with
    many classes: `w` then approaches the number of classes.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        beta: Spread of the factors, > 0. Defaults to 0.25.
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions. None weights
            all positions equally.

    Returns:
        Unitless factor of the temperature of the inner loss, shape `[batch, positions...]`, without gradient.

    Reference:
        Wen, Lai and Qian, 2019, https://arxiv.org/abs/1911.07471. TextBrewer adds the term with `beta` to the
        temperature instead of to a factor: its `beta` is this one times the temperature of the inner loss.
    """
    (student,) = finite_logits(student)
    difficulty = 1.0 / (ops.max(ops.softmax(student, axis=-1), axis=-1) + 1e-3)
    return relative_temperatures(difficulty, beta, position_weight)


@keras.saving.register_keras_serializable("keras_distill")
class ConfidenceTemperature(LogitLossWrapper):
    """Dynamic temperature distillation by confidence (DTD, CWSM): another loss of logits, with a factor per example.

    The logits of both models are divided by `confidence_temperature` before the inner loss compares them. A factor of
    `T^2` in the inner loss does not follow: it uses the temperature of that loss, so an example with a lower factor has
    a larger gradient. Use this loss inside a `LogitStandardization`, not around one, which would remove the scale.

    Args:
        loss: Inner loss of logits, such as `DecoupledKD()`. Defaults to None: the loss of
            `KLDivergence(temperature=4.0)`.
        beta: Spread of the factors, > 0, a number or a schedule. 0.25 corresponds to TextBrewer's `beta=1` at
            a temperature of 4. Defaults to 0.25.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not a loss of logits, or if `beta` is not a finite number > 0 or a schedule; when
            built, for logits of a single class.

    Reference:
        See `confidence_temperature`.

    Example:
    >>> term = Term(ConfidenceTemperature(DecoupledKD(), beta=0.25))
    """

    relational = True
    default_temperature = 4.0

    def __init__(self, loss: DistillationLoss | None = None, beta: ScheduleLike = 0.25, **kwargs: Any):
        super().__init__(loss, **kwargs)
        self.beta = check_positive(beta, "beta")

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student, teacher = finite_logits(student, teacher)
        factor = confidence_temperature(student, value_at(self.beta, batch.step), batch.position_weight)
        factor = ops.expand_dims(factor, -1)
        return self.compare_inner(student / factor, teacher / factor, batch)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}
