"""Logit standardization: any loss of logits, freed from their mean and spread."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import build_wrapped, center, compare_logits, divide_by_deviation, float32, wrap


def logit_standardization(logits):
    """Logits with mean 0 and standard deviation 1 over the classes.

    ```
    z = (logits - mean(logits)) / (std(logits) + 1e-7)
    ```

    The student then need not reach the range of the teacher's logits, only their relations. `std` divides by
    `classes - 1`, as the authors' code does. Equal logits stay 0.

    Args:
        logits: Shape `[batch, positions..., classes]`.

    Returns:
        Unitless, the same shape.

    Reference:
        Sun et al., CVPR 2024, https://arxiv.org/abs/2403.01427
    """
    (logits,) = float32(logits)
    logits = center(logits, axis=-1)
    return divide_by_deviation(
        logits, ops.sum(ops.square(logits), axis=-1, keepdims=True) / (logits.shape[-1] - 1), 1e-7
    )


@keras.saving.register_keras_serializable("keras_distill")
class LogitStandardization(DistillationLoss):
    """Another loss, of standardized logits: `LogitStandardization(DecoupledKD())`.

    Args:
        loss: Any loss of logits. Defaults to the paper's, which is that of `KLDivergence(temperature=2.0)`.
    """

    logits = True

    def __init__(self, loss=None, **kwargs):
        super().__init__(**kwargs)
        wrap(self, loss)
        self.pointwise = loss is None or loss.pointwise

    def build(self, student_shape, teacher_shape):
        build_wrapped(self, student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        student, teacher = logit_standardization(student), logit_standardization(teacher)
        return compare_logits(self.loss, student, teacher, batch, temperature=2.0)

    def get_config(self):
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}
