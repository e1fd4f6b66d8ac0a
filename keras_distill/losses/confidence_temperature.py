"""A lower temperature for the examples of which the student is unsure (CWSM)."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import build_wrapped, compare_logits, float32, relative_temperatures, wrap
from keras_distill.schedules import check_positive, value_at


def confidence_temperature(student, beta=0.25, position_weight=None):
    """A temperature for each example, as a multiple of a loss's own: low where the student is unsure.

    ```
    t = 1 + beta * (mean(w) - w)
    w = 1 / (max softmax(z_s) + 1/1000)
    ```

    The mean is over the batch, padded positions left out. `t` is kept at 1/10 or more, which many classes and a student
    that hardly knows them call for: `w` then goes up to their number.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        beta: How far the temperatures spread.
        position_weight: As in a `Batch`.

    Returns:
        Unitless, shape `[batch, positions...]`, without gradient.

    Reference:
        Wen, Lai and Qian, 2019, https://arxiv.org/abs/1911.07471. TextBrewer adds `beta` to the temperature rather than
        to a multiple of it: its `beta` is ours times the loss's temperature.
    """
    (student,) = float32(student)
    difficulty = 1.0 / (ops.max(ops.softmax(student, axis=-1), axis=-1) + 1e-3)
    return relative_temperatures(difficulty, beta, position_weight)


@keras.saving.register_keras_serializable("keras_distill")
class ConfidenceTemperature(DistillationLoss):
    """Another loss, at `confidence_temperature` times its own temperature: `ConfidenceTemperature(DecoupledKD())`.

    Both networks' logits are divided by that multiple before the loss sees them. A factor of `T^2` within the loss
    stays that of its own temperature: an example at a lower one has a larger gradient. Put it inside a
    `LogitStandardization`, not around one, which would undo any scale.

    Args:
        loss: Any loss of logits. Defaults to what `KLDivergence(temperature=4.0)` does.
        beta: How far the temperatures spread, a number or a schedule, default 0.25.
    """

    relational = True
    logits = True

    def __init__(self, loss=None, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        wrap(self, loss)
        self.beta = check_positive(beta, "beta")

    def build(self, student_shape, teacher_shape):
        build_wrapped(self, student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        student, teacher = float32(student, teacher)
        multiple = confidence_temperature(student, value_at(self.beta, batch.step), batch.position_weight)
        multiple = ops.expand_dims(multiple, -1)
        return compare_logits(self.loss, student / multiple, teacher / multiple, batch, temperature=4.0)

    def get_config(self):
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss), "beta": self.beta}
