"""Logit standardization in knowledge distillation (LSKD): any loss of logits, applied to their z-scores."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss, LogitLossWrapper
from keras_distill.losses.class_masks import MASKED, finite_logits, is_masked
from keras_distill.losses.maths import center, divide_by_deviation
from keras_distill.types import Tensor


def logit_standardization(logits: Tensor) -> Tensor:
    """Standardize logits to mean 0 and standard deviation 1 over the classes.

    ```
    z = (logits - mean(logits)) / (std(logits) + 1e-7)
    ```

    The student then need not match the range of the teacher's logits, only their relations. `std` divides by
    `classes - 1`, as the authors' code does. Equal logits become 0. Masked classes, with a logit such as -inf, are left
    out and stay masked.

    Args:
        logits: Shape `[batch, positions..., classes]`.

    Returns:
        Unitless, shape `[batch, positions..., classes]`.

    Reference:
        Sun et al., CVPR 2024, https://arxiv.org/abs/2403.01427
    """
    (logits,) = finite_logits(logits)
    masked = is_masked(logits)
    left = 1.0 - ops.cast(masked, "float32")
    logits = center(logits, axis=-1, weight=left)
    # 0 for a single class, whose logit becomes 0.
    degrees_of_freedom = ops.maximum(ops.sum(left, axis=-1, keepdims=True) - 1.0, 1.0)
    variance = ops.sum(ops.square(logits), axis=-1, keepdims=True) / degrees_of_freedom
    return ops.where(masked, MASKED, divide_by_deviation(logits, variance, 1e-7))


@keras.saving.register_keras_serializable("keras_distill")
class LogitStandardization(LogitLossWrapper):
    """Logit standardization (LSKD): applies another loss of logits to standardized logits.

    Typical weights are larger than those of the inner loss: the authors use 9 with `KLDivergence(temperature=2.0)`.

    Args:
        loss: Inner loss of logits, such as `DecoupledKD()`. Defaults to None: the loss of
            `KLDivergence(temperature=2.0)`, as in the paper.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not a loss of logits; when built, for logits of a single class.

    Reference:
        See `logit_standardization`.

    Example:
    >>> term = Term(LogitStandardization(DecoupledKD()), weight=9.0)
    """

    default_temperature = 2.0

    def __init__(self, loss: DistillationLoss | None = None, **kwargs: Any):
        super().__init__(loss, **kwargs)
        self.pointwise = loss is None or loss.pointwise

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return self.compare_inner(logit_standardization(student), logit_standardization(teacher), batch)
