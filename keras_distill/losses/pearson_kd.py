"""Pearson correlation distillation (PKD) of feature maps."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import center, divide_by_deviation, flatten_positions, float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor

_EPSILON = 1e-6


def pearson_kd(student: Tensor, teacher: Tensor, position_weight: Tensor | None = None) -> Tensor:
    """Compute half the mean squared difference of standardized features.

    ```
    loss = 1/(2 * channels) * sum_c (n_s[c] - n_t[c])^2
    n[c] = (f[c] - mean(f[c])) / (std(f[c]) + 1e-6);  mean and std over all positions of all examples
    ```

    The mean of the result is `(N - 1) / N * (1 - r)`, with `r` the Pearson correlation of a channel over the `N`
    positions. The paper has `1 - r`; the published code, which this function follows, divides by `N - 1` in `std`. The
    loss of an example depends on the other examples of the batch.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.
        position_weight: Weight of each position, shape `[batch, positions...]`; 0 excludes a position. Defaults to
            None: all positions count equally.

    Returns:
        Unitless, shape `[batch, positions...]`; its mean is the published loss.

    Reference:
        Cao et al., NeurIPS 2022, https://arxiv.org/abs/2207.02039
    """
    shape = ops.shape(student)[:-1]
    student, teacher = float32(student, teacher)
    difference = _standardize(student, position_weight) - _standardize(teacher, position_weight)
    return ops.reshape(ops.mean(ops.square(difference), axis=-1) / 2.0, shape)


def _standardize(features, position_weight):
    features, weight = flatten_positions(features, position_weight)
    features = center(features, axis=0, weight=weight)
    weight = ops.ones_like(features[:, :1]) if weight is None else weight
    degrees_of_freedom = ops.maximum(ops.sum(weight) - 1.0, 0.0)
    variance = ops.divide_no_nan(ops.sum(weight * ops.square(features), axis=0), degrees_of_freedom)
    return divide_by_deviation(features, variance, _EPSILON)


@keras.saving.register_keras_serializable("keras_distill")
class PearsonKD(DistillationLoss):
    """Pearson correlation loss (PKD), averaged over positions. Not `PatientKD`, which is also called PKD.

    Compares feature maps independently of the scale and offset of each channel, so that detectors of different
    architectures can be compared. Maps of the same channels but another size need a `Resize` head, as in the published
    code; where channels differ, use a `Convolution` head (`head="auto"`). mmrazor uses a weight of 6 at each level of
    the feature pyramid of Faster R-CNN. Compares all examples of the global batch under `tf.distribute`; see
    `Term(across_replicas=)`.

    Reference:
        Cao et al., NeurIPS 2022, https://arxiv.org/abs/2207.02039

    Example:
    >>> term = Term(PearsonKD(), student="block_2", teacher="block_4", head="auto", weight=6.0)
    """

    relational = True

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(pearson_kd(student, teacher, batch.position_weight), batch.position_weight)
