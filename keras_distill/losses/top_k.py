"""Knowledge distillation from the teacher's most probable classes (top-k KD)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.top_k import TopKLogits, gather_top_k
from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import kl_from_logits
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_integer


def top_k(
    student: Tensor, teacher: Tensor | TopKLogits, k: int = 10, temperature: float | Tensor = 1.0, tail: bool = True
) -> Tensor:
    """Compute the KL divergence over the teacher's `k` most probable classes and a bucket for the others.

    ```
    loss = T^2 * sum_b p_t[b] * (log p_t[b] - log p_s[b]),  b = the k classes and the bucket
    p[bucket] = sum of softmax(logits / T) over the other classes
    ```

    Teacher probabilities of thousands of very improbable words are mostly noise. Without the bucket both distributions
    are renormalized over the `k` classes, and nothing prevents the student from predicting other classes.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`, or `TopKLogits`, which are never spread to all classes.
        k: Number of classes, >= 1. All classes if there are fewer. Defaults to 10.
        temperature: Softmax temperature, > 0. Defaults to 1.
        tail: Whether to add the bucket. Defaults to True.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        No paper. Hugging Face's TRL has the loss with the bucket, NVIDIA's Model Optimizer without it.
    """
    k = min(k, teacher.shape[-1])
    if isinstance(teacher, TopKLogits):
        teacher, classes = teacher.map(_finite).largest(k, temperature, tail)
    else:
        teacher = _finite(teacher)
        _, classes = ops.top_k(teacher, k)
        teacher = gather_top_k(teacher, classes, temperature, tail)
    student = gather_top_k(_finite(student), classes, temperature, tail)
    return temperature**2 * kl_from_logits(student, teacher, temperature)


def _finite(logits):
    return finite_logits(logits)[0]


@keras.saving.register_keras_serializable("keras_distill")
class TopK(SoftenedLoss):
    """Top-k distillation loss (top-k KD): KL divergence over the teacher's `k` most probable classes.

    Takes logits. Averaged over positions. For large vocabularies.

    Args:
        k: Number of classes, >= 1. 10 to 100 is typical. Defaults to 10.
        temperature: Softmax temperature, > 0, a number or a schedule. 1 to 2 is typical. Defaults to 1.0.
        tail: Whether the other classes together count as one class. Defaults to True.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `k` is not an integer >= 1, if `k` is 1 and `tail` is False, or if `temperature` is not a finite
            number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `top_k`.

    Example:
    >>> term = Term(TopK(k=2), weight=1.0)
    """

    takes_top_k = True

    def __init__(self, k: int = 10, temperature: ScheduleLike = 1.0, tail: bool = True, **kwargs: Any):
        super().__init__(temperature, **kwargs)
        self.k = check_integer(k, "k")
        if self.k == 1 and not tail:
            raise ValueError(
                "`k=1` with `tail=False` leaves a single class, whose probability is always 1. "
                "Use `TopK(k=2, tail=False)` or `TopK(k=1, tail=True)`."
            )
        self.tail = tail

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("TopK", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor | TopKLogits, temperature: float | Tensor) -> Tensor:
        return top_k(student, teacher, self.k, temperature, self.tail)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k, "tail": self.tail}
