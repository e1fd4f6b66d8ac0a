"""Knowledge distillation from softened logits (KD)."""

from typing import Any

import keras

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import kl_from_logits
from keras_distill.types import ScheduleLike, Tensor


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence of softened class probabilities, `KL(teacher || student)`.

    ```
    loss = T^2 * sum_c p_t[c] * (log p_t[c] - log p_s[c])
    p = softmax(logits / T)
    ```

    Takes logits, not probabilities. `T^2` keeps the size of the gradient roughly independent of the temperature.

    A logit below -60,000, such as -inf and -1e9, masks its class. A class that both models mask is left out. A class
    that only the student masks has the probability 0 there: instead of infinity, its term is the teacher's probability
    times at most 100 nats, without gradient.

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, shape `[batch, positions..., classes]`.
        temperature: Softmax temperature, > 0. A higher one emphasizes improbable classes.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531
    """
    student, teacher = finite_logits(student, teacher)
    return temperature**2 * kl_from_logits(student, teacher, temperature)


@keras.saving.register_keras_serializable("keras_distill")
class KLDivergence(SoftenedLoss):
    """Knowledge distillation loss (KD): KL divergence of softened class probabilities, averaged over positions.

    Takes logits. The defaults, a temperature of 1 and equal weights of labels and teacher, suit new examples that the
    teacher labels (`data.TransferSet`). Tian et al. use a temperature of 4 with a weight of 0.9 and
    `Distiller(supervised_weight=0.1)`, on images that are cropped at random in every epoch.

    Args:
        temperature: Softmax temperature, > 0, a number or a schedule. 1 to 4 is typical. Defaults to 1.0, which
            gains most from examples that the teacher was not trained on.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule; when built, for logits of a single class.

    Reference:
        See `kl_divergence`; Tian et al., ICLR 2020, https://arxiv.org/abs/1910.10699

    Example:
    >>> term = Term(KLDivergence(temperature=2.0), weight=0.9)
    >>> distiller = Distiller(student=student, teacher=teacher, terms=[term], supervised_weight=0.1)
    """

    def __init__(self, temperature: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes("KLDivergence", student_shape, teacher_shape)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        return kl_divergence(student, teacher, temperature)
