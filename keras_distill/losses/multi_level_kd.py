"""Multi-level logit distillation (MLKD)."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import classes_left, columns_left, finite_logits, mean_over_classes
from keras_distill.losses.maths import flatten_positions
from keras_distill.losses.softened import kl_from_probabilities, probability_difference, softmax_pair
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive
from keras_distill.types import Tensor


def multi_level_kd(
    student: Tensor,
    teacher: Tensor,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    position_weight: Tensor | None = None,
) -> Tensor:
    """Compute instance-level, batch-level and class-level losses, averaged over temperatures.

    ```
    loss = mean over T of [T^2 * KL(p_t || p_s) + batch_level + class_level]
    ```

    The authors' code sums over the temperatures. It is also meant to keep, in some parts, only the half of the examples
    and classes with the lowest teacher confidence, but it masks averages, which merely scales them. Both are omitted
    here.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        temperatures: Softmax temperatures, each > 0. Defaults to (2.0, 3.0, 4.0, 5.0, 6.0).
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions. None weights
            all positions equally.

    Returns:
        Shape `[batch, positions...]`: nats plus unitless squared differences.

    Reference:
        Jin, Wang and Lin, CVPR 2023, "Multi-Level Logit Distillation"
    """
    student, teacher = finite_logits(student, teacher)
    columns = columns_left(classes_left(student, teacher), position_weight)
    values = 0.0
    for temperature in temperatures:
        q, p, ratio = softmax_pair(student, teacher, temperature)
        values = values + temperature**2 * kl_from_probabilities(p, q, ratio)
        values = values + _batch_level(q, p, ratio, position_weight)
        values = values + _class_level(q, p, ratio, position_weight, columns)
    return values / len(temperatures)


def batch_level(student: Tensor, teacher: Tensor, temperature: float, position_weight: Tensor | None = None) -> Tensor:
    """Compute the squared difference of the similarity matrices of examples.

    ```
    loss_i = sum_j (<p_t[i], p_t[j]> - <p_s[i], p_s[j]>)^2
    p = softmax(logits / T)
    ```

    Positions count as separate examples. Memory grows with the square of their number.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        temperature: Softmax temperature, > 0.
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions. None weights
            all positions equally.

    Returns:
        Unitless, shape `[batch, positions...]`. The mean is the loss of the paper.
    """
    return _batch_level(*softmax_pair(*finite_logits(student, teacher), temperature), position_weight)


def _batch_level(q, p, ratio, position_weight):
    difference, total, weight = _difference_and_sum(q, p, ratio, position_weight)
    # A row of `difference` sums to 0, so a constant may be subtracted from `total`. This removes a large common part,
    # in which the rest would lose its digits.
    square = ops.square(_symmetric(ops.matmul(difference, ops.transpose(total - 2.0 / q.shape[-1]))))
    square = square if weight is None else square * ops.transpose(weight)
    return ops.reshape(ops.sum(square, axis=-1), ops.shape(q)[:-1])


def class_level(student: Tensor, teacher: Tensor, temperature: float, position_weight: Tensor | None = None) -> Tensor:
    """Compute the squared difference of the similarity matrices of classes.

    ```
    loss = 1/classes * sum_cd (<p_t[:, c], p_t[:, d]> - <p_s[:, c], p_s[:, d]>)^2
    p = softmax(logits / T)
    ```

    The value is the same for every example. Positions count as separate examples.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        temperature: Softmax temperature, > 0.
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions. None weights
            all positions equally.

    Returns:
        Unitless, shape `[batch, positions...]`. The mean is the loss of the paper.
    """
    student, teacher = finite_logits(student, teacher)
    columns = columns_left(classes_left(student, teacher), position_weight)
    return _class_level(*softmax_pair(student, teacher, temperature), position_weight, columns)


def _class_level(q, p, ratio, position_weight, columns):
    difference, total, weight = _difference_and_sum(q, p, ratio, position_weight)
    difference = difference if weight is None else difference * weight
    square = ops.square(_symmetric(ops.matmul(ops.transpose(difference), total)))
    return ops.broadcast_to(mean_over_classes(ops.sum(square, axis=-1), columns), ops.shape(q)[:-1])


def _difference_and_sum(q, p, ratio, position_weight):
    """Return `P - Q`, `P + Q` and the weights as matrices with one row per position.

    `P P^T - Q Q^T` is the symmetric part of `(P - Q) (P + Q)^T`. The two products themselves are nearly equal at a high
    temperature, and their difference would lose all digits.
    """
    difference, weight = flatten_positions(probability_difference(q, p, ratio), position_weight)
    return difference, flatten_positions(p + q)[0], weight


def _symmetric(matrix):
    return (matrix + ops.transpose(matrix)) / 2.0


@keras.saving.register_keras_serializable("keras_distill")
class MultiLevelKD(DistillationLoss):
    """Multi-level logit distillation loss (MLKD), averaged over positions.

    Takes logits. Compares predictions, and the similarities of examples and of classes in the predictions. Compares all
    examples of the global batch under `tf.distribute`; see `Term(across_replicas=)`.

    Args:
        temperatures: Softmax temperatures, each > 0. 2 to 6 is typical. Defaults to (2.0, 3.0, 4.0, 5.0, 6.0).
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperatures` is empty, or if an entry is not a finite number > 0; when built, for logits of a
            single class.

    Reference:
        See `multi_level_kd`.

    Example:
    >>> term = Term(MultiLevelKD(temperatures=(2.0, 4.0, 6.0)), weight=1.0)
    """

    relational = True
    logits = True

    def __init__(self, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0), **kwargs: Any):
        super().__init__(**kwargs)
        self.temperatures = [check_positive(value, "temperatures", schedule=False) for value in temperatures]
        if not self.temperatures:
            raise ValueError(f"`temperatures` must hold at least one temperature. Received: {temperatures!r}")

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("MultiLevelKD", student_shape, teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = multi_level_kd(student, teacher, self.temperatures, batch.position_weight)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperatures": self.temperatures}
