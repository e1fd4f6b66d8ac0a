"""Teacher-student agreement of the predicted class."""

from typing import Any

import keras
from keras import ops

from keras_distill.metrics.mean import MeanMetric
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


def agreement(student: Tensor, teacher: Tensor, k: int = 1) -> Tensor:
    """Return 1 where the teacher's predicted class is among the student's top `k` classes, else 0.

    Ties are broken as by `argmax`: of equally probable classes the one with the smaller index ranks higher. A student
    output of NaN never agrees.

    Args:
        student: Logits or probabilities, shape `[batch, positions..., classes]`.
        teacher: Logits or probabilities, same shape as `student`.
        k: Number of top student classes to accept, >= 1. Defaults to 1.

    Returns:
        float32 zeros and ones, shape `[batch, positions...]`.
    """
    best = ops.expand_dims(ops.argmax(teacher, axis=-1), -1)
    score = ops.take_along_axis(student, best, axis=-1)
    smaller_index = ops.arange(student.shape[-1]) < ops.cast(best, "int32")
    # Negated comparisons, because every comparison with NaN is False: NaN then ranks above the teacher's class.
    ranked_higher = ops.logical_not(ops.where(smaller_index, student < score, student <= score))
    return ops.cast(ops.sum(ops.cast(ranked_higher, "int32"), axis=-1) < k, "float32")


@keras.saving.register_keras_serializable("keras_distill")
class Agreement(MeanMetric):
    """Top-1 or top-k agreement between student and teacher.

    ```
    mean of [argmax(z_t) is one of the k largest entries of z_s]
    ```

    The mean runs over all examples and positions. Labels are not used: a student that repeats its teacher's errors
    agrees with it as well.

    Args:
        k: Number of top student classes among which the teacher's class must be, >= 1. 1 and 5 are typical. Defaults
            to 1.
        name: Name in the logs. Defaults to "agreement", or to "top_5_agreement" for `k=5`.
        **kwargs: Arguments of `DistillationMetric`: `student`, `teacher`, `mask`, `dtype`.

    Raises:
        ValueError: If `k` is not an integer >= 1.

    Example:

    >>> metric = Agreement()
    >>> metric.update_state([[0.1, 0.9], [0.8, 0.2]], [[0.3, 0.7], [0.4, 0.6]])
    >>> float(metric.result())
    0.5

    Reference:
        Stanton et al., NeurIPS 2021, https://arxiv.org/abs/2106.05945
    """

    _direction = "up"

    def __init__(self, k: int = 1, name: str | None = None, **kwargs: Any):
        k = check_integer(k, "k")
        super().__init__(name=name or ("agreement" if k == 1 else f"top_{k}_agreement"), **kwargs)
        self.k = k

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return agreement(student, teacher, self.k)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}
