"""Variational information distillation (VID)."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import shapes_match
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer, check_number

LEAST_VARIANCE = 1e-5


def variational_information(
    mean: Tensor, log_scale: Tensor, teacher: Tensor, epsilon: float = LEAST_VARIANCE
) -> Tensor:
    """Compute the negative log-likelihood of the teacher's features under a predicted normal distribution.

    ```
    loss = 1/channels * sum_c ((t[c] - mu(s)[c])^2 / v[c] + log v[c]) / 2
    v = softplus(log_scale) + epsilon
    ```

    May be negative: it is the logarithm of a density, without the constant `log(2 pi) / 2`. The paper uses the sum over
    all entries instead of the mean.

    Args:
        mean: Mean predicted from the student's features, as by `regress`, shape `[batch, positions..., channels]`.
        log_scale: Variance parameter of each channel, shape `[channels]`.
        teacher: Features, the same shape as `mean`.
        epsilon: Lower bound of the variance, in the square of the features' unit. Defaults to 1e-5.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Ahn et al., CVPR 2019, https://arxiv.org/abs/1904.05835, equations 5 and 6
    """
    mean, log_scale, teacher = float32(mean, log_scale, teacher)
    variance = ops.softplus(log_scale) + epsilon
    return ops.mean(ops.square(mean - teacher) / variance + ops.log(variance), axis=-1) / 2.0


def regress(student: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Apply linear layers with ReLU between them to every position.

    Args:
        student: Features, shape `[batch, positions..., student channels]`.
        kernels: Matrices, the first of shape `[student channels, ...]`, the last of shape `[..., teacher channels]`. An
            empty list leaves the features unchanged.

    Returns:
        float32, shape `[batch, positions..., teacher channels]`.
    """
    features = ops.cast(student, "float32")
    for index, kernel in enumerate(kernels):
        features = ops.matmul(features if index == 0 else ops.relu(features), kernel)
    return features


@keras.saving.register_keras_serializable("keras_distill")
class VariationalInformation(DistillationLoss):
    """Variational information distillation loss (VID), averaged over positions. No head is needed.

    Trains its own weights with the student: a regressor from the student's to the teacher's channels and one variance
    per teacher channel. Height and width must be equal. With `depth=0` it has only the variances, and a head predicts
    the mean. RepDistiller uses a weight of 1.

    Args:
        variance: Initial variance, in the square of the features' unit, > 1e-5. 5 in the authors' code. Defaults to
            5.0.
        depth: Number of layers of the regressor, an integer >= 0. 3 in the authors' code. Defaults to 3.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `variance` is not a number > 1e-5, or `depth` is not an integer >= 0.

    Reference:
        Ahn et al., CVPR 2019, https://arxiv.org/abs/1904.05835

    Example:
    >>> term = Term(VariationalInformation(), student="block_2", teacher="block_4")
    >>> head = MLP(depth=3, use_bias=False)
    >>> same = Term(VariationalInformation(depth=0), student="block_2", teacher="block_4", head=head)
    """

    def __init__(self, variance: float = 5.0, depth: int = 3, **kwargs: Any):
        super().__init__(**kwargs)
        self.depth = check_integer(depth, "depth", at_least=0)
        self.variance = check_number(variance, "variance", above=LEAST_VARIANCE)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        channels = teacher_shape[-1]
        input_widths = [student_shape[-1], *[channels] * (self.depth - 1)][: self.depth]
        self.kernels = [
            self.add_weight(shape=(width, channels), initializer="he_normal", name=f"kernel_{index}")
            for index, width in enumerate(input_widths)
        ]
        # Inverse of softplus(log_scale) + LEAST_VARIANCE at the initial variance.
        softplus = self.variance - LEAST_VARIANCE
        initial = softplus + math.log(-math.expm1(-softplus))
        self.log_scale = self.add_weight(
            shape=(channels,), initializer=keras.initializers.Constant(initial), name="log_scale"
        )

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        end = -1 if self.depth else None
        return shapes_match(student_shape[1:end], teacher_shape[1:end])

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = variational_information(regress(student, self.kernels), self.log_scale, teacher)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "variance": self.variance, "depth": self.depth}
