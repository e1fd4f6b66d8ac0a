"""Distillation from the teacher's most probable classes, all others being one."""

import keras
from keras import ops

from keras_distill.data.top_k import gather_top_k
from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import check_classes
from keras_distill.losses.maths import float32, kl_from_logits


def top_k(student, teacher, k=10, temperature=1.0, tail=True):
    """Divergence over the teacher's `k` most probable classes and a bucket for the rest.

    ```
    loss = T^2 * sum_b p_t[b] * (log p_t[b] - log p_s[b]),  b = the k classes and the bucket
    p[bucket] = sum of softmax(logits / T) over the other classes
    ```

    What a teacher says of the thousands of words that it all but excludes is mostly noise. Without the bucket both
    distributions are scaled to sum 1 over the `k` classes, and nothing keeps the student from putting mass elsewhere.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, the same shape.
        k: How many classes; all of them if there are fewer.
        temperature: Above 0.
        tail: Whether there is a bucket.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        No paper; trainers of language models have it with the bucket (Hugging Face's TRL) and without (NVIDIA's Model
        Optimizer).
    """
    student, teacher = float32(student, teacher)
    _, classes = ops.top_k(teacher, min(k, teacher.shape[-1]))
    student, teacher = (gather_top_k(logits, classes, temperature, tail) for logits in (student, teacher))
    return temperature**2 * kl_from_logits(student, teacher, temperature)


@keras.saving.register_keras_serializable("keras_distill")
class TopK(SoftenedLoss):
    """`top_k` as a loss for a `Term`; with positions (tokens, pixels), their mean.

    Args:
        k: How many classes, default 10.
        temperature: A number or a schedule, default 1.
        tail: Whether the other classes count as one, default True.
    """

    def __init__(self, k=10, temperature=1.0, tail=True, **kwargs):
        super().__init__(temperature, **kwargs)
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"`k` must be an integer, 1 or more. Received: {k!r}")
        if k == 1 and not tail:
            raise ValueError("`k` is 1 and there is no `tail`: a single class has probability 1 in both networks.")
        self.k = k
        self.tail = tail

    def build(self, student_shape, teacher_shape):
        check_classes("TopK", student_shape, teacher_shape)

    def divergence(self, student, teacher, temperature):
        return top_k(student, teacher, self.k, temperature, self.tail)

    def get_config(self):
        return {**super().get_config(), "k": self.k, "tail": self.tail}
