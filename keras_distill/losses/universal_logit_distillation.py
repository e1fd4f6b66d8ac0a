"""Universal logit distillation (ULD), for models with different vocabularies."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes, shapes_match
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.distributions import sorted_distance
from keras_distill.types import ScheduleLike, Tensor


def universal_logit_distillation(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the L1 distance of the sorted class probabilities, whatever the classes are.

    ```
    loss = T * sum_k |sorted(p_t)[k] - sorted(p_s)[k]|
    p = softmax(logits / T), sorted from the largest to the smallest; the shorter one is padded with zeros
    ```

    The student learns how certain the teacher is, not which classes are probable: combine it with the labels. `T` keeps
    the size of the gradient roughly independent of the temperature, as in `total_variation`.

    Args:
        student: Logits, shape `[batch, positions..., student classes]`.
        teacher: Logits, shape `[batch, positions..., teacher classes]`.
        temperature: Softmax temperature, > 0. Defaults to 1.

    Returns:
        Probability times `T`, 0 to `2 * T`, shape `[batch, positions...]`.

    Reference:
        Boizard et al., TMLR 2025, https://arxiv.org/abs/2402.12030
    """
    student, teacher = finite_logits(student, teacher)
    q, p = (ops.softmax(x / temperature, axis=-1) for x in (student, teacher))
    return temperature * sorted_distance(q, p)


@keras.saving.register_keras_serializable("keras_distill")
class UniversalLogitDistillation(SoftenedLoss):
    """Universal logit distillation loss (ULD), averaged over positions. The vocabularies may differ.

    Takes logits. The positions must correspond: position `i` of both models predicts the same part of the text. Models
    whose tokenizers split a text in different places need `language.SpanAligned()`.

    Args:
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `universal_logit_distillation`.

    Example:
    >>> term = Term(UniversalLogitDistillation(), weight=1.0, over="tokens")
    """

    compares_vocabularies = True

    def __init__(self, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        for shape in (student_shape, teacher_shape):
            check_classes("UniversalLogitDistillation", shape, shape)

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        """Return True if the positions match. The numbers of classes may differ."""
        return shapes_match(student_shape[1:-1], teacher_shape[1:-1])

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return universal_logit_distillation(student, teacher, temperature)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return sorted_distance(ops.exp(student), ops.exp(teacher))
