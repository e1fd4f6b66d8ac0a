"""Standardization of channels, for the student's side and for the teacher's."""

from typing import Any

import keras
from keras import ops

from keras_distill.distribution import replicas
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_number


@keras.saving.register_keras_serializable("keras_distill")
class Standardization(keras.layers.Layer):
    """Mean 0 and variance 1 of each channel over the examples and positions of a batch. It has no weights.

    ```
    g[..., c] = (f[..., c] - mean(f[..., c])) / sqrt(variance(f[..., c]) + epsilon)
    ```

    Batch normalization without scale, shift and moving averages, in training and in validation. Use it on both sides
    where a loss must not depend on the scale of the features, such as `ChannelWiseKD` between detectors: as
    `teacher_head`, and after the student's map in a `keras.Sequential`. The mean is over the examples of all replicas.

    Args:
        epsilon: Added to the variance, > 0. Defaults to 1e-5.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`. `dtype` defaults to "float32" under any policy.

    Raises:
        ValueError: If `epsilon` is not a finite number > 0.

    Reference:
        Normalized features, as in Cao et al., NeurIPS 2022, https://arxiv.org/abs/2207.02039

    Example:
    >>> head = keras.Sequential([keras.layers.Conv2D(16, 1, use_bias=False), Standardization()])
    >>> term = Term(ChannelWiseKD(1.0), "block_2", "block_4", head=head, teacher_head=Standardization())
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(dtype=kwargs.pop("dtype", "float32"), **kwargs)
        self.epsilon = check_number(epsilon, "epsilon", above=0)

    def call(self, features: Tensor) -> Tensor:
        """Standardize features.

        Args:
            features: Shape `[batch, ..., channels]`.

        Returns:
            The same shape.
        """
        centered = features - self._mean(features)
        return centered * ops.rsqrt(self._mean(ops.square(centered)) + self.epsilon)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def _mean(self, features):
        """Return the mean of each channel over all replicas, shape `[channels]`, with its gradient."""
        axes = tuple(range(len(features.shape) - 1))
        count = ops.cast(ops.size(features), "float32") / features.shape[-1]
        sums, counts = replicas.all_gather((ops.sum(features, axis=axes)[None], ops.reshape(count, (1,))))
        return ops.sum(sums, axis=0) / ops.sum(counts)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
