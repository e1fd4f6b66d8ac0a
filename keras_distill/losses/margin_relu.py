"""Overhaul of feature distillation (OFD): a margin ReLU on the teacher and a partial distance."""

import math

import keras
import numpy as np
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions


def margin_relu(student, teacher, margin):
    """Squared difference from the teacher's features after a margin ReLU, where there is something to learn.

    ```
    loss = 1/channels * sum_c (s[c] - t'[c])^2 where s[c] > t'[c] or t'[c] > 0, else 0
    t'[c] = max(t[c], m[c])
    ```

    Compare what goes into the ReLU, not what comes out of it: a neuron that is off in both networks has nothing to
    learn. The paper has the sum over all entries.

    Args:
        student: Features before the activation, after the head, shape `[batch, positions..., channels]`.
        teacher: Features before the activation, the same shape.
        margin: Negative, a number or one for each channel; `negative_mean` gives the paper's.

    Returns:
        The square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Heo et al., ICCV 2019, https://arxiv.org/abs/1904.01866
    """
    student, teacher = float32(student, teacher)
    target = ops.maximum(teacher, ops.cast(margin, "float32"))
    counts = ops.logical_or(student > target, target > 0)
    return ops.mean(ops.where(counts, ops.square(student - target), 0.0), axis=-1)


def negative_mean(gamma, beta):
    """The mean of what is below 0 of a normal distribution: of a channel behind a batch normalisation.

    Args:
        gamma: The normalisation's scale, a number or one for each channel; its sign does not matter.
        beta: Its offset, likewise.

    Returns:
        float64, negative; `-3 |gamma|` where less than a thousandth is below 0, as in the authors' code.
    """
    deviation, mean = np.broadcast_arrays(np.abs(np.asarray(gamma, "float64")), np.asarray(beta, "float64"))
    # A channel of scale 0 is a constant.
    constant = deviation == 0
    ratio = mean / np.where(constant, 1.0, deviation)
    below = np.vectorize(math.erfc)(ratio / math.sqrt(2.0)) / 2.0
    rare = below <= 1e-3
    density = np.exp(-np.square(ratio) / 2.0) / math.sqrt(2.0 * math.pi)
    margin = np.where(rare, -3.0 * deviation, mean - deviation * density / np.where(rare, 1.0, below))
    return np.where(constant, np.minimum(mean, 0.0), margin)


@keras.saving.register_keras_serializable("keras_distill")
class MarginReLU(DistillationLoss):
    """`margin_relu` as a loss for a `Term`, averaged over positions. Features of unlike shapes need a head.

    ```python
    normalization = teacher.get_layer("block_3_bn")
    Term(MarginReLU(normalization.gamma, normalization.beta), "block_3_bn", "block_3_bn", head="auto")
    ```

    Args:
        gamma: Scale of the teacher's batch normalisation in front of the activation: a number, or one for each channel.
            Default 1.
        beta: Its offset, likewise; default 0.
    """

    def __init__(self, gamma=1.0, beta=0.0, **kwargs):
        super().__init__(**kwargs)
        self.gamma, self.beta = (
            x if isinstance(x, (int, float)) else np.asarray(ops.convert_to_numpy(x), "float64").tolist()
            for x in (gamma, beta)
        )
        self._margin = negative_mean(self.gamma, self.beta).astype("float32")

    def build(self, student_shape, teacher_shape):
        if self._margin.shape not in ((), (1,), (teacher_shape[-1],)):
            raise ValueError(
                f"MarginReLU has `gamma` and `beta` of {self._margin.shape[0]} channels, but compares activations of "
                f"{teacher_shape[-1]}: teacher shape {teacher_shape}. Take those of the layer that is tapped."
            )

    def compare(self, student, teacher, batch):
        return mean_over_positions(margin_relu(student, teacher, self._margin), batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma, "beta": self.beta}
