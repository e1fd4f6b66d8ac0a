"""Variational information distillation (VID): how well the student's features predict the teacher's."""

import math

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive

LEAST_VARIANCE = 1e-5


def variational_information(mean, log_scale, teacher, epsilon=LEAST_VARIANCE):
    """Negative log-likelihood of the teacher's features under a normal distribution that the student predicts.

    ```
    loss = 1/channels * sum_c ((t[c] - mu(s)[c])^2 / v[c] + log v[c]) / 2
    v = softplus(log_scale) + epsilon
    ```

    May be negative: it is a density's logarithm, less the constant `log(2 pi) / 2`. The paper has the sum over all
    entries.

    Args:
        mean: What `regress` makes of the student's features, shape `[batch, positions..., channels]`.
        log_scale: One number for each channel.
        teacher: Features, the same shape as `mean`.
        epsilon: The least variance.

    Returns:
        Nats, shape `[batch, positions...]`.

    Reference:
        Ahn et al., CVPR 2019, https://arxiv.org/abs/1904.05835, equations 5 and 6
    """
    mean, log_scale, teacher = float32(mean, log_scale, teacher)
    variance = ops.softplus(log_scale) + epsilon
    return ops.mean(ops.square(mean - teacher) / variance + ops.log(variance), axis=-1) / 2.0


def regress(student, kernels):
    """The student's features through a network that treats all positions alike, with ReLU between its layers.

    Args:
        student: Features, shape `[batch, positions..., student channels]`.
        kernels: Matrices, the first with the student's channels as rows, the last with the teacher's as columns. None
            leave the features as they are.

    Returns:
        Shape `[batch, positions..., teacher channels]`.
    """
    features = ops.cast(student, "float32")
    for index, kernel in enumerate(kernels):
        features = ops.matmul(features if index == 0 else ops.relu(features), kernel)
    return features


@keras.saving.register_keras_serializable("keras_distill")
class VariationalInformation(DistillationLoss):
    """`variational_information` as a loss for a `Term`, averaged over positions. Any two widths; needs no head.

    Has weights of its own, trained with the student: the layers of `regress` and a variance for each of the teacher's
    channels. With `depth=0` it has the variances alone, and what the head gives is the mean:

    ```python
    Term(VariationalInformation(depth=0), "block_3", "block_6", MLP(depth=3, use_bias=False))
    ```

    Args:
        variance: Where the variances start, default 5.
        depth: The number of layers of `regress`, default 3 as in the authors' code.
    """

    def __init__(self, variance=5.0, depth=3, **kwargs):
        super().__init__(**kwargs)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
            raise ValueError(f"`depth` must be an integer, 0 or more. Received: {depth!r}")
        self.depth = depth
        self.variance = check_positive(variance, "variance")
        if not isinstance(self.variance, float) or self.variance <= LEAST_VARIANCE:
            raise ValueError(f"`variance` must be a number above {LEAST_VARIANCE}. Received: {variance!r}")

    def build(self, student_shape, teacher_shape):
        channels = teacher_shape[-1]
        self.kernels = [
            self.add_weight(shape=(width, channels), initializer="he_normal", name=f"kernel_{index}")
            for index, width in enumerate([student_shape[-1], *[channels] * (self.depth - 1)][: self.depth])
        ]
        softplus = self.variance - LEAST_VARIANCE
        start = softplus + math.log(-math.expm1(-softplus))
        self.log_scale = self.add_weight(
            shape=(channels,), initializer=keras.initializers.Constant(start), name="log_scale"
        )

    def comparable(self, student_shape, teacher_shape):
        end = -1 if self.depth else None
        return shapes_match(student_shape[1:end], teacher_shape[1:end])

    def compare(self, student, teacher, batch):
        values = variational_information(regress(student, self.kernels), self.log_scale, teacher)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "variance": self.variance, "depth": self.depth}
