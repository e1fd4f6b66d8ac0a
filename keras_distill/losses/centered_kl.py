"""Cross-entropy with two temperatures and a centered teacher (DINO)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.distribution import replicas
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import Shape, check_classes, shapes_match
from keras_distill.losses.class_masks import finite_logits, is_masked
from keras_distill.losses.maths import flatten_positions
from keras_distill.losses.softened import kl_from_logits
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_fraction, check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def centered_kl(
    student: Tensor,
    teacher: Tensor,
    center: Tensor | float = 0.0,
    temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
) -> Tensor:
    """Compute the KL divergence of the sharpened, centered predictions of a teacher.

    ```
    loss = sum_k p_t[k] * (log p_t[k] - log p_s[k])
    p_t = softmax((z_t - center) / teacher_temperature),  p_s = softmax(z_s / temperature)
    ```

    The paper's cross-entropy has the same gradient; its value is larger by the entropy of the teacher's predictions.

    Args:
        student: Logits, shape `[batch, positions..., prototypes]`.
        teacher: Logits, shape `[batch, positions..., prototypes]`.
        center: Running mean of the teacher's logits, shape `[prototypes]`. Defaults to 0.
        temperature: Softmax temperature of the student, > 0. Defaults to 0.1.
        teacher_temperature: Softmax temperature of the teacher, > 0. Defaults to 0.04.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294
    """
    student, teacher = finite_logits(student, teacher)
    return kl_from_logits(student / temperature, (teacher - center) / teacher_temperature)


@keras.saving.register_keras_serializable("keras_distill")
class CenteredKL(DistillationLoss):
    """Self-distillation loss with two temperatures and a centered teacher (DINO), averaged over positions.

    For features without labels: student and teacher end in a projection to the same number of prototypes, and the
    teacher is often an `EMATeacher` of the student. A lower temperature sharpens the teacher's predictions, and the
    center, a running mean of its logits, prevents one prototype from dominating. Under `tf.distribute`, the mean is
    over the examples of all replicas.

    With `pairs="crops"`, the predictions are those of several crops of each image, `[batch, crops, prototypes]`, as
    `MultiCrop` returns them, and the teacher's crops are the first of the student's. The loss of an example is the mean
    over all pairs of different crops:

    ```
    loss = mean over i, j != i of KL(p_t of crop i || p_s of crop j)
    ```

    Args:
        temperature: Softmax temperature of the student, > 0, a number or a schedule. 0.1 is typical. Defaults to 0.1.
        teacher_temperature: Softmax temperature of the teacher, > 0, a number or a schedule. 0.04 to 0.07 is typical.
            Defaults to 0.04.
        momentum: Weight of the old center in an update, 0 to 1, a number or a schedule. 0.9 is typical. Defaults to
            0.9.
        pairs: "positions" to compare each position with the same position of the teacher, "crops" to compare each
            crop with all other crops of the teacher. Defaults to "positions".
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If an argument is out of its range; when the distiller is made, for logits of a single prototype,
            and for logits of crops without a pair of different crops.

    Reference:
        Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294

    Example:
    >>> term = Term(CenteredKL(teacher_temperature=0.07))
    >>> multi_crop = Term(CenteredKL(pairs="crops"))
    """

    logits = True

    def __init__(
        self,
        temperature: ScheduleLike = 0.1,
        teacher_temperature: ScheduleLike = 0.04,
        momentum: ScheduleLike = 0.9,
        pairs: str = "positions",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")
        self.teacher_temperature = check_positive(teacher_temperature, "teacher_temperature")
        self.momentum = check_fraction(momentum, "momentum")
        if pairs not in ("positions", "crops"):
            raise ValueError(f"`pairs` must be 'positions' or 'crops'. Received: {pairs!r}")
        self.pairs = pairs
        # Positions do not correspond: there are more crops of the student than of the teacher.
        self.aligns, self.resizable = pairs == "crops", pairs == "positions"

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        first = 1 if self.pairs == "positions" else -1
        return shapes_match(student_shape[first:], teacher_shape[first:])

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("CenteredKL", student_shape, teacher_shape)
        if self.pairs == "crops":
            _check_crops(student_shape, teacher_shape)
        self.center = self.add_weight(
            shape=(teacher_shape[-1],),
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
            name="center",
        )

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        temperatures = (value_at(x, batch.step) for x in (self.temperature, self.teacher_temperature))
        weight = batch.position_weight
        if self.pairs == "crops":
            student, teacher, weight = _pairs_of_crops(student, teacher, weight)
        values = centered_kl(student, teacher, ops.convert_to_tensor(self.center), *temperatures)
        return mean_over_positions(values, weight)

    def remember(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        center, momentum = ops.convert_to_tensor(self.center), value_at(self.momentum, batch.step)
        # A prototype that an example masks does not move its center.
        logits = ops.where(is_masked(teacher), center, ops.cast(teacher, "float32"))
        weight = batch.position_weight
        if self.pairs == "crops" and weight is not None:
            weight = weight[:, : teacher.shape[1]]
        rows, weight = flatten_positions(logits, weight)
        weight = ops.ones_like(rows[:, :1]) if weight is None else weight
        total, count = replicas.all_reduce_sum((ops.sum(rows * weight, axis=0), ops.sum(weight)))
        latest = ops.where(count > 0, ops.divide_no_nan(total, count), center)
        self.center.assign(momentum * center + (1.0 - momentum) * latest)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "teacher_temperature": self.teacher_temperature,
            "momentum": self.momentum,
            "pairs": self.pairs,
        }


def _check_crops(student, teacher):
    """Raise ValueError unless two shapes are those of crops with at least one pair of different crops."""
    if len(student) != 3 or len(teacher) != 3 or None in (student[1], teacher[1]):
        raise ValueError(
            "CenteredKL(pairs='crops') compares logits of the shape (batch, crops, prototypes) with a known number of "
            f"crops; see `MultiCrop`. Received: student shape {student}, teacher shape {teacher}."
        )
    if student[1] < max(teacher[1], 2):
        raise ValueError(
            "CenteredKL(pairs='crops') compares at least two crops of the student with the first of them, which the "
            f"teacher gets. Received: {student[1]} crops of the student, {teacher[1]} of the teacher."
        )


def _pairs_of_crops(student, teacher, weight):
    """Return the activations, and the weights, of all pairs of different crops."""
    pairs = [(i, j) for i in range(teacher.shape[1]) for j in range(student.shape[1]) if i != j]
    of_teacher, of_student = zip(*pairs)
    weight = None if weight is None else ops.take(weight, of_student, axis=1)
    return ops.take(student, of_student, axis=1), ops.take(teacher, of_teacher, axis=1), weight
