"""Distillation by Pearson's correlation (PKD): feature maps of detectors, whatever their scale."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import center, divide_by_deviation, flatten_positions, float32
from keras_distill.models.masking import mean_over_positions

_EPSILON = 1e-6


def pearson_kd(student, teacher, position_weight=None):
    """Half the squared difference of standardized features.

    ```
    loss = 1/(2 * channels) * sum_c (n_s[c] - n_t[c])^2
    n[c] = (f[c] - mean(f[c])) / (std(f[c]) + 1e-6);  mean and std over all positions of all examples
    ```

    The mean is `(N - 1) / N * (1 - r)`, with `r` the correlation of a channel over the `N` positions; the paper has
    `1 - r`, but published code, which this follows, divides by `N - 1` in `std`. The value of an example depends on
    which others share the batch.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.
        position_weight: As in a `Batch`.

    Returns:
        Unitless, shape `[batch, positions...]`; its mean is the published loss.

    Reference:
        Cao et al., NeurIPS 2022, https://arxiv.org/abs/2207.02039
    """
    shape = ops.shape(student)[:-1]
    student, teacher = (_standardized(x, position_weight) for x in float32(student, teacher))
    return ops.reshape(ops.mean(ops.square(student - teacher), axis=-1) / 2.0, shape)


def _standardized(features, position_weight):
    features, weight = flatten_positions(features, position_weight)
    features = center(features, axis=0, weight=weight)
    weight = ops.ones_like(features[:, :1]) if weight is None else weight
    freedom = ops.maximum(ops.sum(weight) - 1.0, 0.0)
    variance = ops.divide_no_nan(ops.sum(weight * ops.square(features), axis=0), freedom)
    return divide_by_deviation(features, variance, _EPSILON)


@keras.saving.register_keras_serializable("keras_distill")
class PearsonKD(DistillationLoss):
    """`pearson` as a loss for a `Term`, averaged over positions. Features of unlike shapes need a head.

    Maps of the same channels but another size need a `Resize`, as in published code.
    """

    relational = True

    def compare(self, student, teacher, batch):
        return mean_over_positions(pearson_kd(student, teacher, batch.position_weight), batch.position_weight)
