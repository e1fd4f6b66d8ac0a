"""Affinity mimicking between images and texts (TinyCLIP)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import Shape, as_shape_pair
from keras_distill.losses.maths import as_pair, float32, unit_vectors
from keras_distill.losses.softened import kl_from_logits
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Structure, Tensor


def affinity_mimicking(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    temperature: float | Tensor = 0.07,
    teacher_temperature: float | Tensor = 0.07,
) -> Tensor:
    """Compute the KL divergence of each example's similarities to the batch, in both directions.

    ```
    loss_i = 1/2 * KL(softmax_j(<u_t[i], v_t[j]> / T_t) || softmax_j(<u_s[i], v_s[j]> / T_s))
           + 1/2 * KL(softmax_j(<v_t[i], u_t[j]> / T_t) || softmax_j(<v_s[i], u_s[j]> / T_s))
    ```

    `u` and `v`, embeddings of images and texts, are scaled to unit length. The cross-entropy of published code has the
    same gradient; its value is larger by the entropy of the teacher's similarities.

    Args:
        student_first: Embeddings of the images, shape `[batch, dim]`.
        student_second: Embeddings of the texts, shape `[batch, dim]`.
        teacher_first: Embeddings of the images, shape `[batch, teacher dim]`.
        teacher_second: Embeddings of the texts, shape `[batch, teacher dim]`.
        temperature: Temperature of the student, > 0: 1 over its logit scale. Defaults to 0.07.
        teacher_temperature: Temperature of the teacher, > 0. Defaults to 0.07.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Wu et al., ICCV 2023, https://arxiv.org/abs/2309.12314
    """
    student = _scores(student_first, student_second, temperature)
    teacher = _scores(teacher_first, teacher_second, teacher_temperature)
    rows = kl_from_logits(student, teacher)
    columns = kl_from_logits(ops.transpose(student), ops.transpose(teacher))
    return (rows + columns) / 2.0


def _scores(first, second, temperature):
    first, second = float32(first, second)
    return ops.matmul(unit_vectors(first), ops.transpose(unit_vectors(second))) / temperature


@keras.saving.register_keras_serializable("keras_distill")
class AffinityMimicking(DistillationLoss):
    """Affinity mimicking loss of models of images and texts (TinyCLIP). No head is needed.

    Compares pairs of embeddings, `(image, text)`, of each model. One activation is paired with itself: the loss then
    compares the similarities between the examples of one encoder. Compares all examples of the global batch under
    `tf.distribute`; see `Term(across_replicas=)`.

    Args:
        temperature: Temperature of the student, > 0, a number or a schedule: 1 over its logit scale, which is 0.07 at
            the start of CLIP's training and 0.01 at its end. Defaults to 0.07.
        teacher_temperature: Temperature of the teacher, > 0, a number or a schedule. 0.01 is typical of trained models.
            Defaults to None: that of the student.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If a temperature is not a finite number > 0 or a schedule, or when the distiller is made, for more
            than two activations, and embeddings of images and texts of different widths.

    Reference:
        Wu et al., ICCV 2023, https://arxiv.org/abs/2309.12314

    Example:
    >>> term = Term(AffinityMimicking(), student=("features", "features"), teacher=("features", "features"))
    """

    relational = True
    rank = 2
    takes_several = True

    def __init__(
        self, temperature: ScheduleLike = 0.07, teacher_temperature: ScheduleLike | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")
        self.teacher_temperature = (
            None if teacher_temperature is None else check_positive(teacher_temperature, "teacher_temperature")
        )

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        pairs = (as_shape_pair(shape) for shape in (student_shape, teacher_shape))
        return all(first[-1] == second[-1] for first, second in pairs)

    def compare(self, student: Structure, teacher: Structure, batch: Batch) -> Tensor:
        ours = self.temperature
        theirs = ours if self.teacher_temperature is None else self.teacher_temperature
        temperatures = (value_at(x, batch.step) for x in (ours, theirs))
        return affinity_mimicking(*as_pair(student), *as_pair(teacher), *temperatures)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "teacher_temperature": self.teacher_temperature,
        }
