"""How often the student says what the teacher says."""

import keras
from keras import ops

from keras_distill.metrics.mean import MeanMetric


def agreement(student, teacher, k=1):
    """1 where the teacher's most probable class is one of the student's `k` most probable ones, else 0.

    Of classes that are equally probable the first comes first, as for `argmax`; a student that says NaN agrees with
    nobody.

    Args:
        student: Logits or probabilities, shape `[batch, positions..., classes]`.
        teacher: The same shape.
        k: How many classes of the student count. Default 1.

    Returns:
        float32, shape `[batch, positions...]`.
    """
    best = ops.expand_dims(ops.argmax(teacher, axis=-1), -1)
    own = ops.take_along_axis(student, best, axis=-1)
    before = ops.arange(student.shape[-1]) < ops.cast(best, "int32")
    # By negations, which hold for NaN.
    ahead = ops.logical_not(ops.where(before, student < own, student <= own))
    return ops.cast(ops.sum(ops.cast(ahead, "int32"), axis=-1) < k, "float32")


@keras.saving.register_keras_serializable("keras_distill")
class Agreement(MeanMetric):
    """Share of the positions at which the student's class is the teacher's: top-1 agreement, or top-k.

    ```
    mean of [argmax(z_t) is one of the k largest of z_s]
    ```

    It asks nothing about the labels: a student may agree with its teacher's errors, too.

    Args:
        k: How many of the student's classes count. Default 1.
        student, teacher, mask: As for `DistillationMetric`.
        name: Defaults to "agreement", or "top_5_agreement" for `k=5`.

    Raises:
        ValueError: If `k` is no integer of 1 or more.

    Reference:
        Stanton et al., NeurIPS 2021, https://arxiv.org/abs/2106.05945
    """

    def __init__(self, k=1, name=None, **kwargs):
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"`k` must be an integer of 1 or more. Received: {k!r}")
        super().__init__(name=name or ("agreement" if k == 1 else f"top_{k}_agreement"), **kwargs)
        self.k = k

    def compare(self, student, teacher):
        return agreement(student, teacher, self.k)

    def get_config(self):
        return {**super().get_config(), "k": self.k}
