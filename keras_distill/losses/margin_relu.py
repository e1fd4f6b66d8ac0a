"""Overhaul of feature distillation (OFD): margin ReLU and partial distance."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor


def margin_relu(student: Tensor, teacher: Tensor, margin: float | Tensor) -> Tensor:
    """Compute the partial squared distance from the teacher's features after a margin ReLU.

    ```
    loss = 1/channels * sum_c (s[c] - t'[c])^2 where s[c] > t'[c] or t'[c] > 0, else 0
    t'[c] = max(t[c], m[c])
    ```

    Pass the inputs of the ReLU, not its outputs: a neuron that is inactive in both networks adds no loss. The paper
    uses the sum over all entries instead of the mean.

    Args:
        student: Features before the activation, after the head, shape `[batch, positions..., channels]`.
        teacher: Features before the activation, the same shape.
        margin: Negative, a number or an array of shape `[channels]`. `negative_mean` computes the paper's.

    Returns:
        Square of the features' unit, shape `[batch, positions...]`.

    Reference:
        Heo et al., ICCV 2019, https://arxiv.org/abs/1904.01866
    """
    student, teacher = float32(student, teacher)
    target = ops.maximum(teacher, ops.cast(margin, "float32"))
    counts = ops.logical_or(student > target, target > 0)
    return ops.mean(ops.where(counts, ops.square(student - target), 0.0), axis=-1)


def negative_mean(gamma: float | Tensor, beta: float | Tensor) -> np.ndarray:
    """Compute the mean of the negative values of a batch-normalized channel, taken as normally distributed.

    Args:
        gamma: Scale of the batch normalization, a number or an array of shape `[channels]`; its sign has no effect.
        beta: Offset of the batch normalization, a number or an array of shape `[channels]`.

    Returns:
        float64, <= 0, shape `[channels]` or `[]`; `-3 |gamma|` where less than a thousandth of the distribution is
        negative, as in the authors' code.
    """
    deviation, mean = np.broadcast_arrays(np.abs(np.asarray(gamma, "float64")), np.asarray(beta, "float64"))
    # A channel of scale 0 is constant.
    constant = deviation == 0
    ratio = mean / np.where(constant, 1.0, deviation)
    below = np.vectorize(math.erfc)(ratio / math.sqrt(2.0)) / 2.0
    rare = below <= 1e-3
    density = np.exp(-np.square(ratio) / 2.0) / math.sqrt(2.0 * math.pi)
    margin = np.where(rare, -3.0 * deviation, mean - deviation * density / np.where(rare, 1.0, below))
    return np.where(constant, np.minimum(mean, 0.0), margin)


@keras.saving.register_keras_serializable("keras_distill")
class MarginReLU(DistillationLoss):
    """Overhaul of feature distillation loss (OFD), averaged over positions.

    Tap the teacher's batch normalization before a ReLU, and pass its `gamma` and `beta`, from which the margin of each
    channel is computed. Tap the student before its ReLU, with a `Convolution` head where shapes differ. The authors sum
    over all entries, with a weight of 1/1000 at the last layer and half the weight of the next one at each earlier
    layer. For this mean, a weight of 1/1000 corresponds to height * width * channels / 1000.

    Args:
        gamma: Scale of the teacher's batch normalization, a number or one number per channel. Defaults to 1.0.
        beta: Offset of the teacher's batch normalization, a number or one number per channel. Defaults to 0.0.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: When the distiller is made, if `gamma` and `beta` have another number of channels than the teacher's
            activation.

    Reference:
        Heo et al., ICCV 2019, https://arxiv.org/abs/1904.01866

    Example:
    >>> normalization = keras.layers.BatchNormalization()  # or teacher.get_layer("block_2_bn")
    >>> normalization.build((None, 8, 8, 16))
    >>> loss = MarginReLU(normalization.gamma, normalization.beta)
    >>> term = Term(loss, student="block_1", teacher="block_2", head="auto", weight=8 * 8 * 16 / 1000)
    """

    def __init__(self, gamma: float | Tensor = 1.0, beta: float | Tensor = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.gamma = _as_config(gamma)
        self.beta = _as_config(beta)
        self._margin = negative_mean(self.gamma, self.beta).astype("float32")

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        if self._margin.shape not in ((), (1,), (teacher_shape[-1],)):
            raise ValueError(
                f"MarginReLU has `gamma` and `beta` of {self._margin.shape[0]} channels, but compares activations of "
                f"{teacher_shape[-1]} channels. Pass those of the batch normalization that is tapped. "
                f"Received: teacher shape {teacher_shape}"
            )

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(margin_relu(student, teacher, self._margin), batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma, "beta": self.beta}


def _as_config(values):
    if isinstance(values, (int, float)):
        return values
    return np.asarray(ops.convert_to_numpy(values), "float64").tolist()
