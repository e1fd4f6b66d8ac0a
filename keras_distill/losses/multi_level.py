"""Multi-level logit distillation (MLKD): predictions, and how examples and classes correlate in them."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.ops import check_classes, float32, relative_entropy, rows
from keras_distill.masking import mean_over_positions
from keras_distill.schedules import positive


def multi_level(student, teacher, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), position_weight=None):
    """Divergence of the predictions, plus `batch_level` and `class_level`, averaged over temperatures.

    ```
    loss = mean over T of [T^2 * KL(p_t || p_s) + batch_level + class_level]
    ```

    The paper leaves the examples, and the classes, of which the teacher is less sure than of most in the batch out of
    some parts. The authors' code only scales these parts by the share that is left, and sums over the temperatures;
    nothing is left out here.

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
        values = values + temperature**2 * relative_entropy(student, teacher, temperature)
        values = values + batch_level(student, teacher, temperature, position_weight)
        values = values + class_level(student, teacher, temperature, position_weight)
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
    shape = ops.shape(student)[:-1]
    student, weight = _predictions(student, temperature, position_weight)
    teacher, _ = _predictions(teacher, temperature, position_weight)
    square = ops.square(ops.matmul(teacher, ops.transpose(teacher)) - ops.matmul(student, ops.transpose(student)))
    square = square if weight is None else square * ops.transpose(weight)
    return ops.reshape(ops.sum(square, axis=-1), shape)


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
    shape = ops.shape(student)[:-1]
    student, teacher = (_products_of_classes(x, temperature, position_weight) for x in (student, teacher))
    return ops.broadcast_to(ops.mean(ops.sum(ops.square(teacher - student), axis=-1)), shape)


def _predictions(logits, temperature, position_weight):
    return rows(ops.softmax(logits / temperature, axis=-1), position_weight)


def _products_of_classes(logits, temperature, position_weight):
    predictions, weight = _predictions(logits, temperature, position_weight)
    weighted = predictions if weight is None else predictions * weight
    return ops.matmul(ops.transpose(weighted), predictions)


@keras.saving.register_keras_serializable("keras_distill")
class MultiLevel(DistillationLoss):
    """`multi_level` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        temperatures: Several numbers, default 2 to 6.
    """

    logits = True

    def __init__(self, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), **kwargs):
        super().__init__(**kwargs)
        self.temperatures = [positive(temperature, "temperatures") for temperature in temperatures]
        if not self.temperatures:
            raise ValueError("`temperatures` must be one number or more. Received none.")

    def build(self, student_shape, teacher_shape):
        check_classes("MultiLevel", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        values = multi_level(student, teacher, self.temperatures, batch.position_weight)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "temperatures": self.temperatures}
