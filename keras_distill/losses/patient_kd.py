"""Patient knowledge distillation (PKD) of the first token's hidden states (BERT-PKD)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, unit_vectors
from keras_distill.types import Tensor


def patient_kd(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared distance between the first token's states, each scaled to unit length.

    ```
    loss = || h_s / |h_s| - h_t / |h_t| ||^2
    ```

    Args:
        student: Hidden states after the head, shape `[batch, tokens, width]`, or the states of one token, shape
            `[batch, width]`.
        teacher: Hidden states of the same width, in either shape.

    Returns:
        Unitless, 0 to 4, shape `[batch]`.

    Reference:
        Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355, equation 7
    """
    student, teacher = float32(student, teacher)
    difference = unit_vectors(_first_token(student)) - unit_vectors(_first_token(teacher))
    return ops.sum(ops.square(difference), axis=-1)


def _first_token(states):
    return states if len(states.shape) == 2 else states[:, 0]


@keras.saving.register_keras_serializable("keras_distill")
class PatientKD(DistillationLoss):
    """Patient knowledge distillation loss (PKD, BERT-PKD). Not `PearsonKD`, which is also called PKD.

    For encoders whose first token ([CLS]) represents the whole sequence. Other tokens are not compared, so padding must
    follow the text and lengths may differ. Use a `Projection` head (`head="auto"`) where widths differ. Make one term
    for each student layer, e.g. with `mapping.every` (PKD-Skip) or `mapping.last` (PKD-Last). The paper searches
    weights of 10, 100, 500 and 1000 for the sum over the layers.

    Raises:
        ValueError: When the distiller is made, if an activation does not have rank 2 or 3.

    Reference:
        Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355

    Example:
    >>> term = Term(PatientKD(), student="encoder/layer_1", teacher="encoder/layer_2", head="auto", weight=100.0)
    """

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        if not {len(student_shape), len(teacher_shape)} <= {2, 3}:
            raise ValueError(
                "PatientKD takes activations of shape [batch, tokens, width] or [batch, width]. "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}"
            )

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return student_shape[-1] == teacher_shape[-1]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return patient_kd(student, teacher)
