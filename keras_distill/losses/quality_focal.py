"""Quality focal loss towards a teacher's scores (QFL, CrossKD)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.class_masks import classes_left, finite_logits, is_masked, mean_over_classes
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def quality_focal(student: Tensor, teacher: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """Compute the binary cross-entropy to the teacher's scores, weighted by their distance, averaged over classes.

    ```
    loss = 1/classes * sum_c |p_s[c] - p_t[c]|^beta * (-p_t[c] * log p_s[c] - (1 - p_t[c]) * log(1 - p_s[c]))
    p = sigmoid(logits)
    ```

    Published code sums over classes and positions and divides by the number of objects.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        beta: Exponent of the distance, > 0. Defaults to 1.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Li et al., NeurIPS 2020, https://arxiv.org/abs/2006.04388; Wang et al., CVPR 2024,
        https://arxiv.org/abs/2306.11369
    """
    student, teacher = finite_logits(student, teacher)
    left = classes_left(student, teacher)
    target = ops.sigmoid(teacher)
    # A class that only the student masks would have an infinite cross-entropy.
    limited = ops.where(is_masked(student), -100.0, student)
    entropy = ops.maximum(limited, 0.0) - limited * target + ops.softplus(-ops.abs(limited))
    distance = ops.abs(ops.sigmoid(student) - target)
    # The gradient of a power at 0 is infinite for an exponent below 1.
    equal = distance == 0
    focal = ops.where(equal, 0.0, ops.power(ops.where(equal, 1.0, distance), beta))
    return mean_over_classes(focal * entropy * left, left)


@keras.saving.register_keras_serializable("keras_distill")
class QualityFocal(DistillationLoss):
    """Quality focal distillation loss (QFL, as in CrossKD), averaged over positions.

    For the class scores of detectors, where nearly all positions are background: positions on which both models agree
    have little weight. CrossKD passes the student's features through the teacher's detection head; tap the scores of a
    student that returns such predictions, too, or compare the models' own scores. Takes logits; of a model that ends in
    a sigmoid, the input of the sigmoid.

    Args:
        beta: Exponent of the distance between the scores, > 0, a number or a schedule. 1 to 2 is typical. Defaults to
            1.0.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `beta` is not a finite number > 0 or a schedule.

    Reference:
        See `quality_focal`.

    Example:
    >>> term = Term(QualityFocal(), weight=1.0)
    """

    logits = True
    pointwise = True
    activation = "Sigmoid"

    def __init__(self, beta: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.beta = check_positive(beta, "beta")

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = quality_focal(student, teacher, value_at(self.beta, batch.step))
        return mean_over_positions(values, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}
