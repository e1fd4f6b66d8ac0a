"""Curriculum temperature (CTKD): a temperature that is trained against the student."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import build_wrapped, compare_logits, float32, wrap
from keras_distill.models.masking import expand_to_rank, mean_over_positions
from keras_distill.schedules import check_positive, value_at

_HIDDEN = 32


def curriculum_temperature(score, low=1.0, high=21.0, reversal=1.0):
    """A temperature between two bounds, whose gradient is turned round on its way to the score.

    ```
    T = low + (high - low) * sigmoid(score)
    ```

    What descends the gradient of a loss then moves the score to where the loss is larger, and all else as ever.

    Args:
        score: Any shape.
        low: Above 0.
        high: Above `low`.
        reversal: The score's gradient is multiplied by minus this.

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
class CurriculumTemperature(DistillationLoss):
    """Another loss, of logits divided by a trained temperature `T`, times `T^2`.

    ```
    CurriculumTemperature(DecoupledKD(temperature=1.0), reversal=Cosine(0.0, 1.0, steps=4_000))
    ```

    The temperature is trained to make the loss large while the student learns to make it small. `reversal` says how
    hard it tries: a schedule from 0 to 1 makes the task harder step by step, which the authors do in their first 10
    epochs. A temperature of the wrapped loss multiplies the trained one: give it one of 1. The weights of the
    temperature start where the authors' do, at `low + 0.73 * (high - low)`.

    Put it inside a `LogitStandardization`, not around one, which would undo any scale.

    Args:
        loss: Any loss of logits. Defaults to what `KLDivergence(temperature=1.0)` does.
        low: Least temperature, a number or a schedule, default 1.
        high: Largest temperature, a number or a schedule, default 21.
        reversal: A number or a schedule, default 1. 0 leaves the temperature where it is.
        instance: Whether each example has a temperature of its own, which a small network with one hidden layer reads
            from both networks' logits; these get no gradient from there. Defaults to one temperature for all.
    """

    logits = True

    def __init__(self, loss=None, low=1.0, high=21.0, reversal=1.0, instance=False, **kwargs):
        super().__init__(**kwargs)
        wrap(self, loss)
        self.low = check_positive(low, "low")
        self.high = check_positive(high, "high")
        if isinstance(self.low, float) and isinstance(self.high, float) and self.high <= self.low:
            raise ValueError(f"`high` must be above `low`. Received: low={low!r}, high={high!r}")
        self.reversal = check_positive(reversal, "reversal", zero=True)
        self.instance = instance

    def build(self, student_shape, teacher_shape):
        build_wrapped(self, student_shape, teacher_shape)
        self.bias = self.add_weight(shape=(1,), initializer="ones", name="bias")
        if self.instance:
            inputs = student_shape[-1] + teacher_shape[-1]
            self.hidden_kernel = self.add_weight(shape=(inputs, _HIDDEN), name="hidden_kernel")
            self.hidden_bias = self.add_weight(shape=(_HIDDEN,), initializer="zeros", name="hidden_bias")
            # From zeros, all examples start at the same temperature.
            self.kernel = self.add_weight(shape=(_HIDDEN, 1), initializer="zeros", name="kernel")

    def temperature_at(self, step):
        if self.instance:
            return None
        trained = ops.squeeze(curriculum_temperature(ops.convert_to_tensor(self.bias), *self._settings(step)))
        return trained * (super().temperature_at(step) or 1.0)

    def compare(self, student, teacher, batch):
        student, teacher = float32(student, teacher)
        temperature = curriculum_temperature(self._score(student, teacher, batch), *self._settings(batch.step))
        divisor = expand_to_rank(temperature, len(student.shape))
        values = compare_logits(self.loss, student / divisor, teacher / divisor, batch, temperature=1.0)
        return ops.square(temperature) * values

    def _settings(self, step):
        return (value_at(setting, step) for setting in (self.low, self.high, self.reversal))

    def _score(self, student, teacher, batch):
        """Shape `[1]`, or `[batch]` where each example has its own."""
        if not self.instance:
            return ops.convert_to_tensor(self.bias)
        logits = ops.stop_gradient(ops.concatenate([student, teacher], axis=-1))
        hidden = ops.relu(ops.matmul(logits, self.hidden_kernel) + self.hidden_bias)
        scores = ops.squeeze(ops.matmul(hidden, self.kernel) + self.bias, axis=-1)
        return mean_over_positions(scores, batch.position_weight)

    def get_config(self):
        settings = {key: getattr(self, key) for key in ("low", "high", "reversal", "instance")}
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss), **settings}
