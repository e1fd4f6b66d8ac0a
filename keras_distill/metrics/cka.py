"""Linear centered kernel alignment (CKA)."""

from typing import Any

import keras
from keras import ops

from keras_distill.metrics.base import DistillationMetric
from keras_distill.models.masking import mean_over_positions, zero_padding
from keras_distill.types import Tap, Tensor


@keras.saving.register_keras_serializable("keras_distill")
class CKA(DistillationMetric):
    """Linear centered kernel alignment (CKA) between a student layer and a teacher layer.

    ```
    CKA  = sum_b n_b * HSIC(K_b, L_b) / sqrt(sum_b n_b * HSIC(K_b, K_b) * sum_b n_b * HSIC(L_b, L_b))
    K_b  = F F^T of the student's activations F, one row per example of batch b with n_b examples; L_b of the teacher's
    HSIC = the unbiased estimate:
           1/(n (n-3)) * [tr(K' L') + (1^T K' 1)(1^T L' 1) / ((n-1)(n-2)) - 2/(n-2) * 1^T K' L' 1],   K' = K, diagonal 0
    ```

    The value is 1 if one layer equals the other up to rotation, scale and shift, and near 0 for unrelated layers.
    Widths and resolutions may differ; a head is not needed.

    The estimate of each batch is unbiased. With enough batches the value therefore does not depend on the batch size,
    whereas the biased estimate reports high similarity of any two layers for small batches. The price is noise: with
    few examples the value may be slightly below 0 or above 1. Batches with fewer than four examples have no estimate
    and do not count.

    Positions (tokens, pixels) are treated as further components of an example's activation, 0 where padded. Sample
    weights only exclude: examples or positions with weight 0 are left out, all others count equally.

    Args:
        student: Tap of the student, e.g. "block_2".
        teacher: Tap of the teacher, e.g. "block_4".
        name: Name in the logs. Several CKA metrics need different names. Defaults to "cka".
        **kwargs: Arguments of `DistillationMetric`: `mask`, `dtype`.

    Example:

    >>> features = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    >>> metric = CKA("block_2", "block_4")
    >>> metric.update_state(features, 3 * features + 1)
    >>> round(float(metric.result()), 3)
    1.0

    Reference:
        Kornblith et al., ICML 2019, https://arxiv.org/abs/1905.00414; Nguyen, Raghu and Kornblith, ICLR 2021,
        https://arxiv.org/abs/2010.15327, equations 2 and 3
    """

    _direction = "up"
    relational = True

    def __init__(self, student: Tap, teacher: Tap, name: str = "cka", **kwargs: Any):
        super().__init__(student, teacher, name=name, **kwargs)
        self.cross_hsic = self.add_variable(shape=(), initializer="zeros", name="cross_hsic")
        self.student_hsic = self.add_variable(shape=(), initializer="zeros", name="student_hsic")
        self.teacher_hsic = self.add_variable(shape=(), initializer="zeros", name="teacher_hsic")

    def update_state(self, student: Tensor, teacher: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add the HSIC estimates of a batch.

        Args:
            student: Activations, shape `[batch, ...]`.
            teacher: Activations, shape `[batch, ...]`.
            sample_weight: Weights, shape `[batch]` or `[batch, positions...]`; 0 excludes an example, or a position of
                both activations. None includes all.
        """
        student = ops.cast(ops.convert_to_tensor(student), "float32")
        teacher = ops.cast(ops.convert_to_tensor(teacher), "float32")
        included = ops.ones(ops.shape(student)[:1], dtype="float32")
        if sample_weight is not None:
            mask = ops.convert_to_tensor(sample_weight) > 0
            included = ops.cast(mean_over_positions(ops.cast(mask, "float32")) > 0, "float32")
            student, teacher = zero_padding(student, mask), zero_padding(teacher, mask)
        count = ops.sum(included)
        student_gram = _centered_gram(student, included, count)
        teacher_gram = _centered_gram(teacher, included, count)
        # n * HSIC. The sum over the product of two U-centered matrices equals the bracket of the formula.
        factor = ops.where(count > 3, 1.0 / ops.maximum(count - 3.0, 1.0), 0.0)
        self.cross_hsic.assign_add(factor * ops.sum(student_gram * teacher_gram))
        self.student_hsic.assign_add(factor * ops.sum(student_gram * student_gram))
        self.teacher_hsic.assign_add(factor * ops.sum(teacher_gram * teacher_gram))

    def result(self) -> Tensor:
        # Two roots instead of the root of the product, which overflows for large activations.
        scaled = ops.divide_no_nan(self.cross_hsic, ops.sqrt(self.student_hsic))
        return ops.divide_no_nan(scaled, ops.sqrt(self.teacher_hsic))


def _centered_gram(features, included, count):
    """Return the U-centered Gram matrix of a batch: rows with mean 0, diagonal excluded."""
    included = ops.reshape(included, (-1, 1))
    features = ops.reshape(features, (ops.shape(features)[0], -1)) * included
    # U-centering removes the mean anyway. Subtracting it first avoids cancellation where the mean is large.
    features = (features - ops.sum(features, axis=0) / ops.maximum(count, 1.0)) * included
    pairs = ops.matmul(included, ops.transpose(included)) * (1.0 - ops.eye(ops.shape(features)[0], dtype="float32"))
    gram = ops.matmul(features, ops.transpose(features)) * pairs
    row_means = ops.sum(gram, axis=0) / ops.maximum(count - 2.0, 1.0)
    total_mean = ops.sum(row_means) / ops.maximum(count - 1.0, 1.0)
    return (gram - ops.expand_dims(row_means, 0) - ops.expand_dims(row_means, 1) + total_mean) * pairs
