"""Knowledge distillation of binary predictions (BCE on softened sigmoid outputs)."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.class_masks import classes_left, finite_logits, mean_over_classes
from keras_distill.losses.softened import kl_from_logits
from keras_distill.types import ScheduleLike, Tensor


def binary_kd(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the KL divergence of softened sigmoid outputs, averaged over labels.

    ```
    loss = T^2/labels * sum_c [p_t[c] * log(p_t[c] / p_s[c]) + (1 - p_t[c]) * log((1 - p_t[c]) / (1 - p_s[c]))]
    p = sigmoid(logits / T)
    ```

    Binary cross-entropy (BCE) with the teacher's probabilities as targets has the same gradient; its value is larger by
    the entropy of these targets. Published code omits `T^2` and uses the sum over labels as often as the mean.

    Args:
        student: Logits, shape `[batch, positions..., labels]`.
        teacher: Logits, shape `[batch, positions..., labels]`.
        temperature: Temperature of the sigmoid, > 0. Defaults to 1.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531, with a sigmoid instead of the softmax.
    """
    student, teacher = finite_logits(student, teacher)
    left = classes_left(student, teacher)
    # A sigmoid is a softmax over a logit and 0.
    student, teacher = (ops.stack([logits, ops.zeros_like(logits)], axis=-1) for logits in (student, teacher))
    return temperature**2 * mean_over_classes(kl_from_logits(student, teacher, temperature), left)


@keras.saving.register_keras_serializable("keras_distill")
class BinaryKD(SoftenedLoss):
    """Binary distillation loss (BCE on softened sigmoid outputs), averaged over positions.

    For multi-label classification, detection and models with a single logit. Takes logits; of a model that ends in a
    sigmoid, the input of the sigmoid.

    Args:
        temperature: Temperature of the sigmoid, > 0, a number or a schedule. 1 to 4 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule.

    Reference:
        See `binary_kd`.

    Example:
    >>> term = Term(BinaryKD(temperature=2.0), weight=0.5)
    """

    activation = "Sigmoid"

    def __init__(self, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return binary_kd(student, teacher, temperature)
