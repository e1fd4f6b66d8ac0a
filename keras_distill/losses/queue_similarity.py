"""Similarity to a queue of teacher embeddings, for features without labels (SEED)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import enqueue, float32, random_directions, unit_vectors
from keras_distill.losses.softened import kl_from_logits
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_integer


def queue_similarity(student: Tensor, teacher: Tensor, queue: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """Compute the KL divergence of the similarities of an example to a queue of teacher embeddings.

    ```
    loss = KL(softmax_k(<t, q_k> / T) || softmax_k(<s, q_k> / T))
    ```

    `s` and `t` are scaled to unit length. Unlike for soft targets, there is no factor `T^2`.

    Args:
        student: Embeddings after the head, shape `[batch, dim]`.
        teacher: Embeddings, shape `[batch, dim]`.
        queue: Embeddings of the teacher, of unit length, shape `[size, dim]`, without gradient.
        temperature: Temperature of the similarities, > 0. Defaults to 0.07.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Fang et al., ICLR 2021, https://arxiv.org/abs/2101.04731
    """
    student, teacher, queue = float32(student, teacher, queue)
    rows = ops.transpose(ops.stop_gradient(queue))
    scores = (ops.matmul(unit_vectors(x), rows) for x in (student, teacher))
    return kl_from_logits(*scores, temperature)


@keras.saving.register_keras_serializable("keras_distill")
class QueueSimilarity(DistillationLoss):
    """Similarity to a queue of the teacher's latest embeddings (SEED), for features without labels.

    The queue, which includes those of the batch, takes the role of classes. Distills vectors of a foundation model into
    a smaller backbone on images without labels; use `head="auto"` where the widths differ. Compares all examples of the
    global batch under `tf.distribute`; see `Term(across_replicas=)`.

    Args:
        size: Length of the queue, an integer >= 1. 4096 to 65536 is typical. Defaults to 4096.
        temperature: Temperature of the similarities, > 0, a number or a schedule. 0.05 to 0.2 is typical. Defaults to
            0.07.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        See `queue_similarity`; its one temperature and the batch in the queue are those of LightlyTrain.

    Example:
    >>> term = Term(QueueSimilarity(size=256), "features", "features", head="auto")
    """

    relational = True
    rank = 2

    def __init__(self, size: int = 4096, temperature: ScheduleLike = 0.07, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = check_integer(size, "size")
        self.temperature = check_positive(temperature, "temperature")

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        self.queue = self.add_weight(
            shape=(self.size, teacher_shape[-1]),
            initializer=random_directions,
            trainable=False,
            aggregation="only_first_replica",
            name="queue",
        )

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return queue_similarity(student, teacher, self._updated(teacher), value_at(self.temperature, batch.step))

    def remember(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        self.queue.assign(self._updated(teacher))

    def _updated(self, teacher):
        return enqueue(ops.convert_to_tensor(self.queue), unit_vectors(ops.cast(teacher, "float32")))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "temperature": self.temperature}
