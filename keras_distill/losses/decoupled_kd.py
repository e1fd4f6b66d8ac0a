"""Decoupled knowledge distillation (DKD): the target class and the others, weighted apart."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import float32, kl_from_logits, one_hot_labels
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, value_at


def decoupled_kd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    """Divergence about the target class, plus divergence among the classes that are not the target.

    ```
    loss = T^2 * (alpha * KL(b_t || b_s) + beta * KL(r_t || r_s))
    b = (p[target], 1 - p[target]);  r = p over the other classes, scaled to sum 1;  p = softmax(logits / T)
    ```

    Plain distillation is `alpha=1` with `1 - p_t[target]` for `beta`: the surer the teacher, the less it tells about
    the other classes. The authors ramp this loss up over the first epochs; use a schedule as the term's weight.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        labels: Class numbers, shape `[batch, positions...]` or `[batch, positions..., 1]`, or one-hot rows of the shape
            of the logits, of which the largest entry names the target.
        alpha: Weight of the first part.
        beta: Weight of the second part.
        temperature: Above 0.

    Returns:
        Nats, shape `[batch, positions...]`; 0 where there is no label.

    Reference:
        Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679
    """
    student, teacher = float32(student, teacher)
    labels = one_hot_labels(labels, student)
    target = ops.one_hot(ops.argmax(labels, axis=-1), student.shape[-1], dtype="bool")

    binary = kl_from_logits(*(_target_or_not(logits, target, temperature) for logits in (student, teacher)))
    others = kl_from_logits(*(_others(logits, target) for logits in (student, teacher)), temperature)
    return ops.where(ops.any(labels > 0, axis=-1), temperature**2 * (alpha * binary + beta * others), 0.0)


def _others(logits, target):
    # Low enough that the target gets no probability from logits of any size; the authors subtract 1000.
    return ops.where(target, -1e30, logits)


def _target_or_not(logits, target, temperature):
    """The two logits whose softmax is `(p[target], 1 - p[target])`: the second never leaves log space."""
    logits = (logits - ops.max(logits, axis=-1, keepdims=True)) / temperature
    inside = ops.sum(ops.where(target, logits, 0.0), axis=-1)
    return ops.stack([inside, ops.logsumexp(_others(logits, target), axis=-1)], axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class DecoupledKD(DistillationLoss):
    """`decoupled_kd` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        alpha: Weight of the target class, a number or a schedule, default 1.
        beta: Weight of the other classes, a number or a schedule, default 8; the paper uses 1 to 10.
        temperature: A number or a schedule, default 4.
    """

    logits = True
    pointwise = True
    needs_labels = True

    def __init__(self, alpha=1.0, beta=8.0, temperature=4.0, **kwargs):
        super().__init__(**kwargs)
        self.alpha = check_positive(alpha, "alpha", zero=True)
        self.beta = check_positive(beta, "beta", zero=True)
        self.temperature = check_positive(temperature, "temperature")
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("`alpha` and `beta` are both 0: nothing is left of DecoupledKD.")

    def build(self, student_shape, teacher_shape):
        check_classes("DecoupledKD", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        alpha, beta, temperature = (value_at(v, batch.step) for v in (self.alpha, self.beta, self.temperature))
        values = decoupled_kd(student, teacher, batch.labels, alpha, beta, temperature)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self):
        config = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        return {**super().get_config(), **config}
