"""Activation boundary transfer (AB)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def activation_boundary(student: Tensor, teacher: Tensor, margin: float | Tensor = 1.0) -> Tensor:
    """Compute the squared hinge loss between pre-activations and the teacher's signs.

    ```
    loss = 1/channels * sum_c (max(0, m - s[c])^2 if t[c] > 0 else max(0, m + s[c])^2)
    ```

    Pass the inputs of the ReLU, not its outputs. Only the teacher's signs are used, so the loss is not 0 at the
    teacher's own values unless all of them exceed the margin. The paper uses the sum over all entries instead of the
    mean.

    Args:
        student: Features before the activation, after the head, shape `[batch, positions..., channels]`.
        teacher: Features before the activation, the same shape.
        margin: Margin in the unit of the student's features, > 0. 1 in the paper. Defaults to 1.0.

    Returns:
        Square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Heo et al., AAAI 2019, https://arxiv.org/abs/1811.03233, equation 5
    """
    student, teacher = float32(student, teacher)
    signed = ops.where(teacher > 0, student, -student)
    return ops.mean(ops.square(ops.relu(margin - signed)), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class ActivationBoundary(DistillationLoss):
    """Activation boundary loss (AB), averaged over positions.

    Trains the student's neurons to be active for the same inputs as the teacher's. Tap layers before their ReLU. Use a
    `Convolution` head (`head="auto"`) where channels, height or width differ. The paper first trains the student with
    this loss alone, as an initialization, and then with labels.

    Args:
        margin: Margin in the unit of the student's features, > 0, a number or a schedule. Defaults to 1.0.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `margin` is not a number > 0 or a schedule.

    Reference:
        Heo et al., AAAI 2019, https://arxiv.org/abs/1811.03233

    Example:
    >>> term = Term(ActivationBoundary(margin=1.0), student="block_1", teacher="block_2", head="auto")
    """

    def __init__(self, margin: ScheduleLike = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.margin = check_positive(margin, "margin")

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = activation_boundary(student, teacher, value_at(self.margin, batch.step))
        return mean_over_positions(values, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}
