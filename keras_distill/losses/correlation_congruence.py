"""Correlation congruence (CC): how the examples of a batch correlate, in the eyes of a kernel."""

import math

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, unit_vectors
from keras_distill.schedules import check_positive, value_at


def correlation_congruence(student, teacher, gamma=0.4, order=2):
    """Squared difference of the kernel matrices over the batch.

    ```
    loss_i = 1/batch * sum_j (K_s[i, j] - K_t[i, j])^2
    K[i, j] = sum_p exp(-2 gamma) * (2 gamma)^p / p! * <f_i, f_j>^p,  p = 0 to order
    ```

    The kernel is the Taylor series of a Gaussian `exp(-gamma |f_i - f_j|^2)` between embeddings of length 1. This is
    the paper's loss; torchdistill has its kernels but takes the norm in place of its square, and RepDistiller has no
    kernel but products of differences between neighbours.

    Args:
        student: Embeddings of length 1, shape `[batch, dim]`.
        teacher: Embeddings of length 1, shape `[batch, dim]`; `dim` may differ.
        gamma: Of the Gaussian, above 0; None for the paper's bilinear kernel, `<f_i, f_j>`.
        order: Of the Taylor series, 1 or more.

    Returns:
        Unitless, shape `[batch]`; its mean is the paper's loss.

    Reference:
        Peng et al., ICCV 2019, https://arxiv.org/abs/1904.01802
    """
    student, teacher = (_kernel(features, gamma, order) for features in float32(student, teacher))
    return ops.mean(ops.square(student - teacher), axis=-1)


def _kernel(features, gamma, order):
    products = ops.matmul(features, ops.transpose(features))
    if gamma is None:
        return products
    series = 0.0
    for power in range(order, -1, -1):
        series = series * products + (2.0 * gamma) ** power / math.factorial(power)
    return ops.exp(-2.0 * gamma) * series


@keras.saving.register_keras_serializable("keras_distill")
class CorrelationCongruence(DistillationLoss):
    """`correlation_congruence` of embeddings scaled to length 1, as a loss for a `Term`. Needs no head.

    Args:
        gamma: Of the Gaussian kernel, a number or a schedule, default 0.4; None for the bilinear kernel.
        order: Of its Taylor series, default 2.
    """

    relational = True
    rank = 2

    def __init__(self, gamma=0.4, order=2, **kwargs):
        super().__init__(**kwargs)
        if isinstance(order, bool) or not isinstance(order, int) or order < 1:
            raise ValueError(f"`order` must be an integer, 1 or more. Received: {order!r}")
        self.gamma = None if gamma is None else check_positive(gamma, "gamma")
        self.order = order

    def comparable(self, student_shape, teacher_shape):
        return len(student_shape) == len(teacher_shape)

    def compare(self, student, teacher, batch):
        student, teacher = (unit_vectors(features) for features in float32(student, teacher))
        return correlation_congruence(student, teacher, value_at(self.gamma, batch.step), self.order)

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma, "order": self.order}
