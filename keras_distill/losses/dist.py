"""Distillation from a stronger teacher by correlations of predictions (DIST)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import classes_left, columns_left, finite_logits, mean_over_classes
from keras_distill.losses.maths import center, cosine_distance, flatten_positions
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor

# The correlation of a class whose probabilities vary less than this over the batch is scaled down, as in the published
# code.
_MIN_NORM = 1e-8


def dist(
    student: Tensor,
    teacher: Tensor,
    beta: float | Tensor = 1.0,
    gamma: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
    position_weight: Tensor | None = None,
) -> Tensor:
    """Compute 1 - Pearson correlation of softened predictions, over classes and over examples.

    ```
    loss_i = T^2 * [beta * (1 - r(p_s[i, :], p_t[i, :])) + gamma * (1 - 1/classes * sum_c r(p_s[:, c], p_t[:, c]))]
    r = Pearson's correlation;  p = softmax(logits / T)
    ```

    A student much weaker than its teacher need not match the confidence of the teacher, only its ranking. Positions
    count as separate examples. `T^2` is from the authors' code. Where the norm of a centered vector is below 1e-8, the
    correlation decreases with the norm. This is one of two published rules; they differ only for classes whose
    probabilities are nearly constant.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        beta: Weight of the correlation over classes (inter-class), >= 0. Defaults to 1.
        gamma: Weight of the correlation over examples (intra-class), >= 0. Defaults to 1.
        temperature: Softmax temperature, > 0. Defaults to 1.
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions. None weights
            all positions equally.

    Returns:
        Unitless, shape `[batch, positions...]`. The second part is the same for all entries. The mean is the loss of
        the paper.

    Reference:
        Huang et al., NeurIPS 2022, https://arxiv.org/abs/2205.10536
    """
    student, teacher = finite_logits(student, teacher)
    left = classes_left(student, teacher)
    student, teacher = (ops.softmax(logits / temperature, axis=-1) for logits in (student, teacher))
    over_classes = _correlation_distance(center(student, axis=-1, weight=left), center(teacher, axis=-1, weight=left))
    over_examples = _correlation_distance(
        _centered_columns(student, position_weight), _centered_columns(teacher, position_weight)
    )
    # The distance of a class that no example has is 1; it is left out.
    columns = columns_left(left, position_weight)
    return temperature**2 * (beta * over_classes + gamma * mean_over_classes(columns * over_examples, columns))


def _centered_columns(probabilities, position_weight):
    """Return the probabilities of each class over all examples, centered, shape `[classes, batch * positions]`."""
    probabilities, weight = flatten_positions(probabilities, position_weight)
    columns = center(probabilities, axis=0, weight=weight)
    return ops.transpose(columns if weight is None else columns * ops.sqrt(weight))


def _correlation_distance(student, teacher):
    """Compute 1 - correlation of centered vectors over the last axis."""
    scale = ops.stop_gradient(_scale(student) * _scale(teacher))
    return 1.0 - scale + scale * cosine_distance(student, teacher)


def _scale(vectors):
    return ops.minimum(ops.norm(vectors, axis=-1) / _MIN_NORM, 1.0)


@keras.saving.register_keras_serializable("keras_distill")
class DIST(DistillationLoss):
    """Distillation loss from a stronger teacher (DIST): correlations of predictions, averaged over positions.

    Takes logits. Compares all examples of the global batch under `tf.distribute`; see `Term(across_replicas=)`.

    Args:
        beta: Weight of the correlation over classes, >= 0, a number or a schedule. 1 to 2 is typical. Defaults to 1.0.
        gamma: Weight of the correlation over examples, >= 0, a number or a schedule. 1 to 2 is typical. Defaults to
            1.0.
        temperature: Softmax temperature, > 0, a number or a schedule. The paper uses 1 and 4. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `beta` or `gamma` is not a finite number >= 0 or a schedule, if both are 0, or if `temperature`
            is not a finite number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `dist`.

    Example:
    >>> term = Term(DIST(beta=1.0, gamma=1.0), weight=1.0)
    """

    relational = True
    logits = True

    def __init__(
        self, beta: ScheduleLike = 1.0, gamma: ScheduleLike = 1.0, temperature: ScheduleLike = 1.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.beta = check_positive(beta, "beta", zero=True)
        self.gamma = check_positive(gamma, "gamma", zero=True)
        self.temperature = check_positive(temperature, "temperature")
        if self.beta == 0 and self.gamma == 0:
            raise ValueError(
                "`beta` and `gamma` of DIST must not both be 0: the loss would always be 0. "
                f"Received: beta={beta!r}, gamma={gamma!r}"
            )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("DIST", student_shape, teacher_shape)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        settings = (value_at(v, batch.step) for v in (self.beta, self.gamma, self.temperature))
        return mean_over_positions(dist(student, teacher, *settings, batch.position_weight), batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        config = {"beta": self.beta, "gamma": self.gamma, "temperature": self.temperature}
        return {**super().get_config(), **config}
