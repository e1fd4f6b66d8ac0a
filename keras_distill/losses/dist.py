"""DIST: correlations with the teacher's probabilities, within examples and within classes."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import center, cosine_distance, flatten_positions, float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, value_at

# Classes whose probabilities vary less than this, over the batch, teach little: as in the published code.
_LEAST_NORM = 1e-8


def dist(student, teacher, beta=1.0, gamma=1.0, temperature=1.0, position_weight=None):
    """What is missing to a perfect correlation, over the classes and over the examples.

    ```
    loss_i = T^2 * [beta * (1 - r(p_s[i, :], p_t[i, :])) + gamma * (1 - 1/classes * sum_c r(p_s[:, c], p_t[:, c]))]
    r = Pearson's correlation;  p = softmax(logits / T)
    ```

    A student much weaker than its teacher need not match its confidence, only its ranking. Positions count as examples
    of their own. `T^2` is the authors' code's. Where the norm of a centred vector is below 1e-8, the correlation
    shrinks with it: one of two published rules, which differ only for classes that hardly vary.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        beta: Weight of the correlation over classes.
        gamma: Weight of the correlation over examples.
        temperature: Above 0.
        position_weight: As in a `Batch`.

    Returns:
        Unitless, shape `[batch, positions...]`; the second part is the same in all of them. Their mean is the paper's
        loss.

    Reference:
        Huang et al., NeurIPS 2022, https://arxiv.org/abs/2205.10536
    """
    student, teacher = (ops.softmax(x / temperature, axis=-1) for x in float32(student, teacher))
    over_classes = _one_minus_correlation(*(center(p, axis=-1) for p in (student, teacher)))
    over_examples = _one_minus_correlation(*(_columns(p, position_weight) for p in (student, teacher)))
    return temperature**2 * (beta * over_classes + gamma * ops.mean(over_examples))


def _columns(probabilities, position_weight):
    """What each class gets in every example, centred: shape `[classes, batch * positions]`."""
    probabilities, weight = flatten_positions(probabilities, position_weight)
    columns = center(probabilities, axis=0, weight=weight)
    return ops.transpose(columns if weight is None else columns * ops.sqrt(weight))


def _one_minus_correlation(student, teacher):
    shrinkage = ops.stop_gradient(_shrinkage(student) * _shrinkage(teacher))
    return 1.0 - shrinkage + shrinkage * cosine_distance(student, teacher)


def _shrinkage(vectors):
    return ops.minimum(ops.norm(vectors, axis=-1) / _LEAST_NORM, 1.0)


@keras.saving.register_keras_serializable("keras_distill")
class DIST(DistillationLoss):
    """`dist` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        beta: Weight of the correlation over classes, a number or a schedule, default 1.
        gamma: Weight of the correlation over examples, a number or a schedule, default 1.
        temperature: A number or a schedule, default 1; the paper also uses 4.
    """

    relational = True
    logits = True

    def __init__(self, beta=1.0, gamma=1.0, temperature=1.0, **kwargs):
        super().__init__(**kwargs)
        self.beta = check_positive(beta, "beta", zero=True)
        self.gamma = check_positive(gamma, "gamma", zero=True)
        self.temperature = check_positive(temperature, "temperature")
        if self.beta == 0 and self.gamma == 0:
            raise ValueError("`beta` and `gamma` are both 0: nothing is left of Dist.")

    def build(self, student_shape, teacher_shape):
        check_classes("Dist", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        settings = (value_at(v, batch.step) for v in (self.beta, self.gamma, self.temperature))
        return mean_over_positions(dist(student, teacher, *settings, batch.position_weight), batch.position_weight)

    def get_config(self):
        config = {"beta": self.beta, "gamma": self.gamma, "temperature": self.temperature}
        return {**super().get_config(), **config}
