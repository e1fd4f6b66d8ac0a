"""Patient knowledge distillation: the states of the first token, layer by layer (PKD-BERT)."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, unit_vectors


def patient_kd(student, teacher):
    """Squared distance of the first token's states, each scaled to unit length.

    ```
    loss = || h_s / |h_s| - h_t / |h_t| ||^2
    ```

    For encoders that gather a sentence in their first token; the others are not looked at, and padding must follow.

    Args:
        student: Hidden states after the head, shape `[batch, tokens, width]`, or those of one token, `[batch, width]`.
        teacher: Hidden states, the same shape.

    Returns:
        Unitless, 0 to 4, shape `[batch]`.

    Reference:
        Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355, equation 7
    """
    student, teacher = (
        unit_vectors(states if len(states.shape) == 2 else states[:, 0]) for states in float32(student, teacher)
    )
    return ops.sum(ops.square(student - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class PatientKD(DistillationLoss):
    """`patient` as a loss for a `Term`. States of unlike widths need a head; lengths may differ."""

    def build(self, student_shape, teacher_shape):
        if not {len(student_shape), len(teacher_shape)} <= {2, 3}:
            raise ValueError(
                "Patient compares activations of rank 2 or 3. "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
            )

    def comparable(self, student_shape, teacher_shape):
        return student_shape[-1] == teacher_shape[-1]

    def compare(self, student, teacher, batch):
        return patient_kd(student, teacher)
