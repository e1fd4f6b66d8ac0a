"""Decoupled knowledge distillation (DKD)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import MASKED, finite_logits
from keras_distill.losses.maths import one_hot_labels
from keras_distill.losses.softened import kl_from_logits
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def decoupled_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 8.0,
    temperature: float | Tensor = 4.0,
) -> Tensor:
    """Compute separately weighted KL divergences of the target class and of the other classes.

    ```
    loss = T^2 * (alpha * KL(b_t || b_s) + beta * KL(r_t || r_s))
    b = (p[target], 1 - p[target]);  r = p over the other classes, renormalized;  p = softmax(logits / T)
    ```

    `KLDivergence` is the case `alpha = 1`, `beta = 1 - p_t[target]`: a confident teacher hardly transfers its
    probabilities of the other classes. The authors warm this loss up over the first epochs; pass
    `Term(weight=WarmUp(...))`.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        labels: Class indices, shape `[batch, positions...]` or `[batch, positions..., 1]`, or one-hot rows of the shape
            of the logits, whose largest entry is the target.
        alpha: Weight of the target-class part, >= 0. Defaults to 1.
        beta: Weight of the other classes, >= 0. Defaults to 8.
        temperature: Softmax temperature, > 0. Defaults to 4.

    Returns:
        Nats, shape `[batch, positions...]`; 0 where the label is missing.

    Reference:
        Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679
    """
    student, teacher = finite_logits(student, teacher)
    labels = one_hot_labels(labels, student)
    target = ops.one_hot(ops.argmax(labels, axis=-1), student.shape[-1], dtype="bool")

    target_part = kl_from_logits(
        _binary_logits(student, target, temperature), _binary_logits(teacher, target, temperature)
    )
    other_part = kl_from_logits(_exclude_target(student, target), _exclude_target(teacher, target), temperature)
    values = temperature**2 * (alpha * target_part + beta * other_part)
    return ops.where(ops.any(labels > 0, axis=-1), values, 0.0)


def _exclude_target(logits, target):
    # Low enough that the target has probability 0 for logits of any size; the authors subtract 1000.
    return ops.where(target, MASKED, logits)


def _binary_logits(logits, target, temperature):
    """Compute the two logits whose softmax is `(p[target], 1 - p[target])`."""
    # The second logit stays in log space: 1 - p[target] would round to 0 for a confident model.
    logits = (logits - ops.max(logits, axis=-1, keepdims=True)) / temperature
    target_logit = ops.sum(ops.where(target, logits, 0.0), axis=-1)
    return ops.stack([target_logit, ops.logsumexp(_exclude_target(logits, target), axis=-1)], axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class DecoupledKD(DistillationLoss):
    """Decoupled knowledge distillation loss (DKD), averaged over positions.

    Takes logits and the labels of the batch. Examples without a label contribute 0.

    Args:
        alpha: Weight of the target-class part, >= 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        beta: Weight of the other classes, >= 0, a number or a schedule. 1 to 10 is typical. Defaults to 8.0.
        temperature: Softmax temperature, > 0, a number or a schedule. 1 to 4 is typical. Defaults to 4.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `alpha` or `beta` is not a finite number >= 0 or a schedule, if both are 0, or if `temperature`
            is not a finite number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `decoupled_kd`.

    Example:
    >>> term = Term(DecoupledKD(alpha=1.0, beta=8.0), weight=WarmUp(1.0, steps=1_000))
    """

    logits = True
    pointwise = True
    needs_labels = True

    def __init__(
        self, alpha: ScheduleLike = 1.0, beta: ScheduleLike = 8.0, temperature: ScheduleLike = 4.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.alpha = check_positive(alpha, "alpha", zero=True)
        self.beta = check_positive(beta, "beta", zero=True)
        self.temperature = check_positive(temperature, "temperature")
        if self.alpha == 0 and self.beta == 0:
            raise ValueError(
                "`alpha` and `beta` of DecoupledKD must not both be 0: the loss would always be 0. "
                f"Received: alpha={alpha!r}, beta={beta!r}"
            )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("DecoupledKD", student_shape, teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        alpha, beta, temperature = (value_at(v, batch.step) for v in (self.alpha, self.beta, self.temperature))
        values = decoupled_kd(student, teacher, batch.labels, alpha, beta, temperature)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        config = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        return {**super().get_config(), **config}
