"""Multi-level logit distillation (MLKD): predictions, and how examples and classes correlate in them."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import (
    flatten_positions,
    float32,
    kl_from_probabilities,
    probability_difference,
    softmax_pair,
)
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive


def multi_level_kd(student, teacher, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), position_weight=None):
    """Divergence of the predictions, plus `batch_level` and `class_level`, averaged over temperatures.

    ```
    loss = mean over T of [T^2 * KL(p_t || p_s) + batch_level + class_level]
    ```

    The authors' code adds the temperatures up. It also means to keep, in some parts, only the half of the examples and
    classes of which the teacher is least sure, but masks averages, which merely scales them; neither is done here.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        temperatures: Several numbers above 0.
        position_weight: As in a `Batch`.

    Returns:
        Shape `[batch, positions...]`.

    Reference:
        Jin, Wang and Lin, CVPR 2023, "Multi-Level Logit Distillation"
    """
    student, teacher = float32(student, teacher)
    values = 0.0
    for temperature in temperatures:
        q, p, ratio = softmax_pair(student, teacher, temperature)
        values = values + temperature**2 * kl_from_probabilities(p, q, ratio)
        values = values + _batch_level(q, p, ratio, position_weight) + _class_level(q, p, ratio, position_weight)
    return values / len(temperatures)


def batch_level(student, teacher, temperature, position_weight=None):
    """Squared difference of the products between the predictions for any two examples.

    ```
    loss_i = sum_j (<p_t[i], p_t[j]> - <p_s[i], p_s[j]>)^2
    p = softmax(logits / T)
    ```

    Positions count as examples of their own; this needs memory for the square of their number.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        temperature: Above 0.
        position_weight: As in a `Batch`.

    Returns:
        Unitless, shape `[batch, positions...]`; its mean is the paper's loss.
    """
    return _batch_level(*softmax_pair(*float32(student, teacher), temperature), position_weight)


def _batch_level(q, p, ratio, position_weight):
    gaps, sums, weight = _gaps_and_sums(q, p, ratio, position_weight)
    # A row of gaps sums to 0, so that what all classes have in common may go before it drowns the rest.
    square = ops.square(_symmetric(ops.matmul(gaps, ops.transpose(sums - 2.0 / q.shape[-1]))))
    square = square if weight is None else square * ops.transpose(weight)
    return ops.reshape(ops.sum(square, axis=-1), ops.shape(q)[:-1])


def class_level(student, teacher, temperature, position_weight=None):
    """Squared difference of the products between what any two classes get in all examples.

    ```
    loss = 1/classes * sum_cd (<p_t[:, c], p_t[:, d]> - <p_s[:, c], p_s[:, d]>)^2
    p = softmax(logits / T)
    ```

    The same for every example. Positions count as examples of their own.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        temperature: Above 0.
        position_weight: As in a `Batch`.

    Returns:
        Unitless, shape `[batch, positions...]`; its mean is the paper's loss.
    """
    return _class_level(*softmax_pair(*float32(student, teacher), temperature), position_weight)


def _class_level(q, p, ratio, position_weight):
    gaps, sums, weight = _gaps_and_sums(q, p, ratio, position_weight)
    gaps = gaps if weight is None else gaps * weight
    square = ops.square(_symmetric(ops.matmul(ops.transpose(gaps), sums)))
    return ops.broadcast_to(ops.mean(ops.sum(square, axis=-1)), ops.shape(q)[:-1])


def _gaps_and_sums(q, p, ratio, position_weight):
    """Differences and sums of the predictions: `P P^T - Q Q^T` is the symmetric part of `(P - Q) (P + Q)^T`.

    The products themselves are nearly equal at a high temperature, and their difference has no digit left.
    """
    gaps, weight = flatten_positions(probability_difference(q, p, ratio), position_weight)
    return gaps, flatten_positions(p + q)[0], weight


def _symmetric(matrix):
    return (matrix + ops.transpose(matrix)) / 2.0


@keras.saving.register_keras_serializable("keras_distill")
class MultiLevelKD(DistillationLoss):
    """`multi_level` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        temperatures: Several numbers, default 2 to 6.
    """

    relational = True
    logits = True

    def __init__(self, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), **kwargs):
        super().__init__(**kwargs)
        self.temperatures = [check_positive(temperature, "temperatures") for temperature in temperatures]
        if not self.temperatures:
            raise ValueError("`temperatures` must be one number or more. Received none.")

    def build(self, student_shape, teacher_shape):
        check_classes("MultiLevelKD", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        values = multi_level_kd(student, teacher, self.temperatures, batch.position_weight)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "temperatures": self.temperatures}
