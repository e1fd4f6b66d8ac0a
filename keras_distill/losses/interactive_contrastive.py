"""Interactive contrastive learning between a student and a teacher (CLIP-KD)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, unit_vectors
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def interactive_contrastive(student: Tensor, teacher: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """Compute the contrastive loss (InfoNCE) of the student's embeddings with the teacher's as candidates.

    ```
    loss_i = -log softmax_j(<s_i, t_j> / T)[i]
    ```

    `s` and `t` are scaled to unit length.

    Args:
        student: Embeddings after the head, shape `[batch, dim]`.
        teacher: Embeddings, shape `[batch, dim]`.
        temperature: Temperature of the similarities, > 0. Defaults to 0.07.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Yang et al., CVPR 2024, https://arxiv.org/abs/2307.12732
    """
    student, teacher = (unit_vectors(x) for x in float32(student, teacher))
    scores = ops.matmul(student, ops.transpose(teacher)) / temperature
    return ops.logsumexp(scores, axis=-1) - ops.diagonal(scores)


@keras.saving.register_keras_serializable("keras_distill")
class InteractiveContrastive(DistillationLoss):
    """Interactive contrastive loss (ICL, CLIP-KD): finds the teacher's embedding of the same example in the batch.

    For models of images and texts, make two terms, from the student's images to the teacher's texts and from its texts
    to the teacher's images, each with a weight of 0.5. Use `head="auto"` where the widths differ. Compares all examples
    of the global batch under `tf.distribute`; see `Term(across_replicas=)`.

    Args:
        temperature: Temperature of the similarities, > 0, a number or a schedule. 0.01 to 0.1 is typical. Defaults to
            0.07.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule.

    Reference:
        Yang et al., CVPR 2024, https://arxiv.org/abs/2307.12732

    Example:
    >>> term = Term(InteractiveContrastive(), student="features", teacher="features", head="auto")
    """

    relational = True
    rank = 2

    def __init__(self, temperature: ScheduleLike = 0.07, **kwargs: Any):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return interactive_contrastive(student, teacher, value_at(self.temperature, batch.step))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
