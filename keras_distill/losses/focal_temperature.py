"""A lower temperature for the examples on which the networks disagree, after focal loss (FLSW)."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import (
    build_wrapped,
    compare_logits,
    cosine_distance,
    float32,
    relative_temperatures,
    wrap,
)
from keras_distill.schedules import check_positive, value_at


def focal_temperature(student, teacher, beta=0.25, gamma=1.0, position_weight=None):
    """A temperature for each example, as a multiple of a loss's own: low where the logits point elsewhere.

    ```
    t = 1 + beta * (mean(w) - w)
    w = (1 - cos(z_s, z_t))^gamma
    ```

    The mean is over the batch, padded positions left out. `t` is kept at 1/10 or more.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        beta: How far the temperatures spread.
        gamma: Above 0; more of it singles out the examples on which the two disagree most.
        position_weight: As in a `Batch`.

    Returns:
        Unitless, shape `[batch, positions...]`, without gradient.

    Reference:
        Wen, Lai and Qian, 2019, https://arxiv.org/abs/1911.07471. TextBrewer adds `beta` to the temperature rather than
        to a multiple of it: its `beta` is ours times the loss's temperature.
    """
    difficulty = ops.power(cosine_distance(*float32(student, teacher)), gamma)
    return relative_temperatures(difficulty, beta, position_weight)


@keras.saving.register_keras_serializable("keras_distill")
class FocalTemperature(DistillationLoss):
    """Another loss, at `focal_temperature` times its own temperature: `FocalTemperature(DecoupledKD())`.

    Both networks' logits are divided by that multiple before the loss sees them. A factor of `T^2` within the loss
    stays that of its own temperature: an example at a lower one has a larger gradient. Put it inside a
    `LogitStandardization`, not around one, which would undo any scale.

    Args:
        loss: Any loss of logits. Defaults to what `KLDivergence(temperature=4.0)` does.
        beta: How far the temperatures spread, a number or a schedule, default 0.25.
        gamma: Exponent of the disagreement, a number or a schedule, default 1.
    """

    relational = True
    logits = True

    def __init__(self, loss=None, beta=0.25, gamma=1.0, **kwargs):
        super().__init__(**kwargs)
        wrap(self, loss)
        self.beta = check_positive(beta, "beta")
        self.gamma = check_positive(gamma, "gamma")

    def build(self, student_shape, teacher_shape):
        build_wrapped(self, student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        student, teacher = float32(student, teacher)
        beta, gamma = value_at(self.beta, batch.step), value_at(self.gamma, batch.step)
        multiple = ops.expand_dims(focal_temperature(student, teacher, beta, gamma, batch.position_weight), -1)
        return compare_logits(self.loss, student / multiple, teacher / multiple, batch, temperature=4.0)

    def get_config(self):
        return {
            **super().get_config(),
            "loss": keras.saving.serialize_keras_object(self.loss),
            "beta": self.beta,
            "gamma": self.gamma,
        }
