"""Fake quantization of kernels and activations."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill.types import Tensor

# Quantized layers, with the axes of the kernel that have one scale per entry.
CHANNEL_AXES = {
    keras.layers.Dense: (-1,),
    keras.layers.Conv1D: (-1,),
    keras.layers.Conv2D: (-1,),
    keras.layers.DepthwiseConv2D: (-2, -1),
    keras.layers.Conv2DTranspose: (-2,),
}
# Lower bound of scales and ranges, so that a kernel of zeros does not divide by 0.
_EPSILON = 1e-8


@keras.saving.register_keras_serializable("keras_distill")
class Quantized(keras.layers.Wrapper):
    """Layer with fake quantization of its kernel and inputs.

    Args:
        layer: Layer with a kernel: Dense, Conv1D, Conv2D, DepthwiseConv2D or Conv2DTranspose.
        weights: Bits of each kernel weight, 2 to 8. Defaults to 8.
        activations: Bits of each input, 2 to 8, or None. Defaults to 8.
        train_ranges: Whether training updates the range of the inputs. Defaults to True.
        quantize_kernel: Whether to quantize the kernel in every pass. False if the kernel holds quantized values, as
            after `bake_quantization`. Defaults to True.
        **kwargs: Arguments of `keras.layers.Wrapper`, such as `name`.

    Example:

    >>> from keras_distill.compression.fake_quantization import Quantized
    >>> layer = Quantized(keras.layers.Dense(2), weights=4)
    >>> layer(np.ones((1, 3))).shape
    TensorShape([1, 2])
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weights: int = 8,
        activations: int | None = 8,
        train_ranges: bool = True,
        quantize_kernel: bool = True,
        **kwargs: Any,
    ):
        # No autocast: values are rounded in float32, and the wrapped layer casts to its own precision.
        super().__init__(layer, autocast=False, **kwargs)
        self.weights_bits = weights
        self.activations_bits = activations
        self.train_ranges = train_ranges
        self.quantize_kernel = quantize_kernel
        self.supports_masking = layer.supports_masking
        # (minimum, maximum) of the inputs during calibration, else None.
        self._observed_range = None

    def build(self, input_shape: tuple) -> None:
        super().build(input_shape)
        if self.activations_bits is not None:
            options = {"shape": (), "trainable": self.train_ranges, "dtype": "float32"}
            self.low = self.add_weight(name="low", initializer=keras.initializers.Constant(-1.0), **options)
            self.high = self.add_weight(name="high", initializer="ones", **options)

    def call(self, inputs: Tensor) -> Tensor:
        if self._observed_range is not None:
            low, high = self._observed_range
            smallest, largest = float(ops.min(inputs)), float(ops.max(inputs))
            if not (math.isfinite(smallest) and math.isfinite(largest)):
                raise ValueError(
                    f"The inputs of '{self.name}' contain NaN or infinity, so that their range cannot be calibrated. "
                    "Check `examples` and the weights of the model."
                )
            self._observed_range = min(low, smallest), max(high, largest)
            return self.layer(inputs)
        if self.activations_bits is not None:
            inputs = self._quantized_inputs(inputs)
        if not self.quantize_kernel:
            return self.layer(inputs)
        kernel = self.layer.kernel
        # Straight-through estimator: the forward pass uses the rounded kernel, the gradient ignores the rounding.
        straight_through = kernel + ops.stop_gradient(self.quantized_kernel() - kernel)
        with keras.StatelessScope(state_mapping=[(kernel, straight_through)]):
            return self.layer(inputs)

    def quantized_kernel(self) -> Tensor:
        """Return the kernel rounded to multiples of the scales of its channels, same shape as the kernel."""
        kernel = ops.convert_to_tensor(self.layer.kernel)
        channel_axes = {axis % len(kernel.shape) for axis in CHANNEL_AXES[type(self.layer)]}
        axes = tuple(axis for axis in range(len(kernel.shape)) if axis not in channel_axes)
        largest = ops.max(ops.abs(kernel), axis=axes, keepdims=True)
        scale = ops.maximum(largest, _EPSILON) / (2 ** (self.weights_bits - 1) - 1)
        return ops.round(kernel / scale) * scale

    def start_calibration(self) -> None:
        """Record the range of the inputs from now on, without quantization."""
        self._observed_range = 0.0, _EPSILON

    def finish_calibration(self) -> None:
        """Set the range of the inputs to the recorded one and quantize again."""
        (low, high), self._observed_range = self._observed_range, None
        self.low.assign(low)
        self.high.assign(high)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weights": self.weights_bits,
            "activations": self.activations_bits,
            "train_ranges": self.train_ranges,
            "quantize_kernel": self.quantize_kernel,
        }

    def _quantized_inputs(self, inputs):
        # 0 must be one of the steps, so that padding and the output of a ReLU stay exact.
        low, high = ops.minimum(self.low, 0.0), ops.maximum(self.high, _EPSILON)
        inputs, bits = ops.cast(inputs, "float32"), self.activations_bits
        if not self.quantize_kernel:
            # A baked model is exported: converters recognize this operation.
            return keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high, num_bits=bits)
        return fake_quantize(inputs, low, high, bits)


def fake_quantize(values: Tensor, low: Tensor | float, high: Tensor | float, bits: int) -> Tensor:
    """Round values to the nearest of `2^bits` steps from `low` to `high`; 0 is one of the steps.

    ```
    scale = (high - low) / (2^bits - 1)
    ```

    The values equal those of `keras.quantizers.fake_quant_with_min_max_vars`. The gradient differs: the range receives
    a gradient from all values, not only from those outside of it. The gradient with respect to the values ignores the
    rounding (straight-through estimator); the gradient with respect to the scale includes it.

    Args:
        values: float32, shape `[batch, ...]`.
        low: Lower end of the range, a scalar <= 0.
        high: Upper end of the range, a scalar > 0.
        bits: Bit width, 2 to 8.

    Returns:
        float32, same shape as `values`.

    Example:

    >>> from keras_distill.compression.fake_quantization import fake_quantize
    >>> fake_quantize(np.array([0.4, 1.6, 9.0], "float32"), 0.0, 7.0, bits=3).numpy().tolist()
    [0.0, 2.0, 7.0]

    Reference:
        Esser et al., ICLR 2020, https://arxiv.org/abs/1902.08153 (learned step size)
    """
    last = 2**bits - 1
    # The gradient of the range is a sum over all values. This factor scales it to the size of a weight's gradient.
    factor = 1.0 / math.sqrt(math.prod(values.shape[1:]) * last) if None not in values.shape[1:] else 1.0 / last
    low = factor * low + (1 - factor) * ops.stop_gradient(low)
    high = factor * high + (1 - factor) * ops.stop_gradient(high)
    scale = (high - low) / last
    zero = ops.stop_gradient(ops.clip(ops.floor(0.5 - low / scale), 0, last))
    steps = ops.clip(values / scale + zero, 0, last)
    steps += ops.stop_gradient(ops.floor(steps + 0.5) - steps)
    return (steps - zero) * scale
