"""Correlation congruence (CC, CCKD)."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, gram_matrix, unit_vectors
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_integer


def correlation_congruence(
    student: Tensor, teacher: Tensor, gamma: float | Tensor | None = 0.4, order: int = 2
) -> Tensor:
    """Compute the squared difference of the kernel matrices of the two batches.

    ```
    loss_i = 1/batch * sum_j (K_s[i, j] - K_t[i, j])^2
    K[i, j] = sum_p exp(-2 gamma) * (2 gamma)^p / p! * <f_i, f_j>^p,  p = 0 to order
    ```

    The kernel is the Taylor series of a Gaussian `exp(-gamma |f_i - f_j|^2)` between embeddings of length 1. This is
    the paper's loss. torchdistill uses the same kernels but the norm instead of its square; RepDistiller has no kernel
    but multiplies the differences of neighboring examples.

    Args:
        student: Embeddings of length 1, shape `[batch, dim]`.
        teacher: Embeddings of length 1, shape `[batch, dim]`; `dim` may differ.
        gamma: Factor of the squared distance in the Gaussian kernel, > 0, or None for the paper's bilinear kernel
            `<f_i, f_j>`. Defaults to 0.4.
        order: Order of the Taylor series, >= 1. Defaults to 2.

    Returns:
        Unitless, shape `[batch]`; its mean is the paper's loss.

    Reference:
        Peng et al., ICCV 2019, https://arxiv.org/abs/1904.01802
    """
    student, teacher = float32(student, teacher)
    difference = _kernel(student, gamma, order) - _kernel(teacher, gamma, order)
    return ops.mean(ops.square(difference), axis=-1)


def _kernel(features, gamma, order):
    products = gram_matrix(features)
    if gamma is None:
        return products
    series = 0.0
    for power in range(order, -1, -1):
        series = series * products + (2.0 * gamma) ** power / math.factorial(power)
    return ops.exp(-2.0 * gamma) * series


@keras.saving.register_keras_serializable("keras_distill")
class CorrelationCongruence(DistillationLoss):
    """Correlation congruence loss (CC, CCKD) of embeddings scaled to length 1. No head is needed.

    Compares all examples of the global batch under `tf.distribute`; see `Term(across_replicas=)`. The loss is unitless
    and small, so its weight must be tuned; `weight=Balance(0.1)` sets it relative to the supervised loss.
    RepDistiller's weight of 0.02 belongs to another formula.

    Args:
        gamma: Factor of the squared distance in the Gaussian kernel, > 0, a number or a schedule, or None for the
            bilinear kernel. Defaults to 0.4.
        order: Order of the Taylor series of the kernel, an integer >= 1. 2 in the paper. Defaults to 2.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `gamma` is not a number > 0, a schedule or None, or `order` is not an integer >= 1.

    Reference:
        Peng et al., ICCV 2019, https://arxiv.org/abs/1904.01802

    Example:
    >>> term = Term(CorrelationCongruence(), student="features", teacher="features", weight=Balance(0.1))
    """

    relational = True
    rank = 2

    def __init__(self, gamma: ScheduleLike | None = 0.4, order: int = 2, **kwargs: Any):
        super().__init__(**kwargs)
        self.gamma = None if gamma is None else check_positive(gamma, "gamma")
        self.order = check_integer(order, "order")

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return len(student_shape) == len(teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student, teacher = float32(student, teacher)
        gamma = value_at(self.gamma, batch.step)
        return correlation_congruence(unit_vectors(student), unit_vectors(teacher), gamma, self.order)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma, "order": self.order}
