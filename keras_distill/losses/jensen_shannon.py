"""Generalised Jensen-Shannon divergence: between imitating the teacher's whole distribution and its modes."""

import numbers

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import float32, kl_from_logits, kl_from_probabilities, softmax_pair


def jensen_shannon(student, teacher, beta=0.5, temperature=1.0):
    """Divergences of the teacher's and the student's probabilities from a mixture of the two.

    ```
    loss = T^2 * (beta * KL(p_t || m) + (1 - beta) * KL(p_s || m))
    m = beta * p_t + (1 - beta) * p_s;  p = softmax(logits / T)
    ```

    `beta` counts the teacher, as in the paper. At 0 and 1, where both parts vanish, it stands for `KL(p_t || p_s)` and
    `KL(p_s || p_t)`, to which the loss over `beta` and over `1 - beta` tends. Published code leaves `T^2` out.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        beta: The teacher's share of the mixture, 0 to 1.
        temperature: Above 0.

    Returns:
        Nats, shape `[batch, positions...]`; at most `log 2 * T^2`, unless `beta` is 0 or 1.

    Reference:
        Agarwal et al., ICLR 2024, https://arxiv.org/abs/2306.13649, equation 1
    """
    student, teacher = float32(student, teacher)
    if beta in (0, 1):
        ends = (student, teacher) if beta == 0 else (teacher, student)
        return temperature**2 * kl_from_logits(*ends, temperature)
    q, p, ratio = softmax_pair(student, teacher, temperature)
    mixture = beta * p + (1.0 - beta) * q
    from_teacher = kl_from_probabilities(p, mixture, _over_mixture(ratio, beta))
    from_student = kl_from_probabilities(q, mixture, _over_mixture(-ratio, 1.0 - beta))
    return temperature**2 * (beta * from_teacher + (1.0 - beta) * from_student)


def _over_mixture(ratio, share):
    """Log p - log(share * p + (1 - share) * q), where `ratio` is log p - log q."""
    # Two ways to write it, each for the sign at which its exponential cannot overflow.
    above = -ops.log1p((1.0 - share) * ops.expm1(-ops.maximum(ratio, 0.0)))
    below = ops.minimum(ratio, 0.0)
    below = below - ops.log1p(share * ops.expm1(below))
    return ops.where(ratio > 0, above, below)


@keras.saving.register_keras_serializable("keras_distill")
class JensenShannon(SoftenedLoss):
    """`jensen_shannon` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        beta: The teacher's share of the mixture, a number from 0 to 1, default 0.5.
        temperature: A number or a schedule, default 1.
    """

    def __init__(self, beta=0.5, temperature=1.0, **kwargs):
        super().__init__(temperature, **kwargs)
        if isinstance(beta, bool) or not isinstance(beta, numbers.Real) or not 0 <= beta <= 1:
            raise ValueError(f"`beta` must be a number from 0 to 1. Received: {beta!r}")
        self.beta = float(beta)

    def build(self, student_shape, teacher_shape):
        check_classes("JensenShannon", student_shape, teacher_shape)

    def divergence(self, student, teacher, temperature):
        return jensen_shannon(student, teacher, self.beta, temperature)

    def get_config(self):
        return {**super().get_config(), "beta": self.beta}
