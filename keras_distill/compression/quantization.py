"""Quantization-aware distillation: a student that computes as its quantised version will, while it still learns."""

import fnmatch
import math
from typing import NamedTuple

import keras
from keras import ops

from keras_distill.compression.folding import fold_batch_norm, rebuild
from keras_distill.models.taps import walk_layers

# The axes of a kernel that have a scale for each entry.
_CHANNELS = {
    keras.layers.Dense: (-1,),
    keras.layers.Conv1D: (-1,),
    keras.layers.Conv2D: (-1,),
    keras.layers.DepthwiseConv2D: (-2, -1),
    keras.layers.Conv2DTranspose: (-2,),
}
_LEAST = 1e-8


class BitWidths(NamedTuple):
    """How many bits a layer computes with.

    Attributes:
        weights: Of each weight of its kernel, 2 to 8. Biases stay whole: devices keep them in 32 bits.
        activations: Of each of its inputs, 2 to 8; None leaves them as they are.
    """

    weights: int = 8
    activations: int | None = 8


INT8 = BitWidths()


def quantize_aware(model, examples, bits=INT8, others=None, learned=True, batch_size=128):
    """A copy of a model whose layers round their weights and inputs, for a student that is trained on.

    ```python
    student = quantized(trained_student, x_train[:1000], others={"logits": None, "block_3_*": Bits(4, 8)})
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(4.0))])
    ```

    Kernels are rounded to multiples of a scale for each channel, `max|w| / (2^(bits-1) - 1)`; a layer's inputs to
    `2^bits` steps of a range. Gradients pass rounding as if it were not there. Normalisation is folded into the layers
    before it first (`fold`), as devices do. Rounded are Dense, Conv1D, Conv2D, DepthwiseConv2D and Conv2DTranspose.

    Args:
        model: A functional or Sequential `keras.Model`, trained; it stays as it is.
        examples: Inputs, as the model takes them, from which the ranges of activations are taken: some hundreds, of the
            training data.
        bits: `Bits` of all layers that are not named. Defaults to 8 of both.
        others: `{pattern of layers' paths: Bits, or None}`, as of `mapping.layers`; the first that fits counts. None
            leaves a layer in floats.
        learned: Whether training moves the ranges of activations, too. Defaults to True.
        batch_size: Examples of one pass.

    Returns:
        A new model, whose layers are called as before and hold the original ones: taps read "conv" as before.

    Raises:
        ValueError: If the model is not functional, has no layer that can be rounded, or a pattern names none; for
            numbers of bits that are not offered.

    Reference:
        Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877; Polino et al., ICLR 2018,
        https://arxiv.org/abs/1802.05668 (distillation of quantised students)
    """
    others = others or {}
    _check_bits([bits, *others.values()])
    model = fold_batch_norm(model)
    wanted = {id(layer): each for layer, each in choose_bits(model, tuple(_CHANNELS), bits, others)}

    copies = []

    def clone(layer):
        copy = type(layer).from_config(layer.get_config())
        if wanted.get(id(layer)) is not None:
            copy = Quantized(copy, *wanted[id(layer)], learned, name=layer.name, dtype=layer.dtype_policy)
        copies.append((layer, copy))
        return copy

    result = rebuild(model, clone)
    for layer, copy in copies:
        if isinstance(layer, keras.layers.Layer):
            (copy.layer if isinstance(copy, Quantized) else copy).set_weights(layer.get_weights())
    _calibrate(result, examples, batch_size)
    return result


def bake_quantization(model, activations=True):
    """A copy of a model from `quantized` whose kernels hold what they round to, for exporting.

    Args:
        model: A `keras.Model`.
        activations: Whether its layers still round their inputs. Without, they are the plain layers that they were.

    Raises:
        ValueError: If no layer of it is quantised.
    """
    if not any(isinstance(layer, Quantized) for _, layer in walk_layers(model)):
        raise ValueError(f"'{model.name}' has no quantised layers. Make some with `quantized`.")
    copies = []

    def clone(layer):
        source = layer.layer if isinstance(layer, Quantized) and not activations else layer
        config = source.get_config() | ({"rounds": False} if isinstance(source, Quantized) else {})
        copies.append((layer, source, type(source).from_config(config)))
        return copies[-1][2]

    result = rebuild(model, clone)
    for layer, source, copy in copies:
        if isinstance(source, keras.layers.Layer):
            copy.set_weights(source.get_weights())
        if isinstance(layer, Quantized):
            (copy.layer if activations else copy).kernel.assign(layer.rounded_kernel())
    return result


@keras.saving.register_keras_serializable("keras_distill")
class Quantized(keras.layers.Wrapper):
    """A layer that rounds its kernel and its inputs.

    Args:
        layer: One with a kernel, such as Dense.
        weights, activations: As of `Bits`.
        learned: Whether training moves the range of the inputs.
        rounds: Whether the kernel is rounded in every pass; not where it holds rounded values already.
    """

    def __init__(self, layer, weights=8, activations=8, learned=True, rounds=True, **kwargs):
        # Rounded in full precision; the layer itself computes in its own.
        super().__init__(layer, autocast=False, **kwargs)
        self.weights_bits = weights
        self.activations_bits = activations
        self.learned = learned
        self.rounds = rounds
        self.supports_masking = layer.supports_masking
        # The least and greatest of the inputs, while they are looked at.
        self._seen = None

    def build(self, input_shape):
        super().build(input_shape)
        if self.activations_bits is not None:
            options = {"shape": (), "trainable": self.learned, "dtype": "float32"}
            self.low = self.add_weight(name="low", initializer=keras.initializers.Constant(-1.0), **options)
            self.high = self.add_weight(name="high", initializer="ones", **options)

    def call(self, inputs):
        if self._seen is not None:
            low, high = self._seen
            self._seen = min(low, float(ops.min(inputs))), max(high, float(ops.max(inputs)))
            return self.layer(inputs)
        if self.activations_bits is not None:
            inputs = self._rounded_inputs(inputs)
        if not self.rounds:
            return self.layer(inputs)
        kernel = self.layer.kernel
        # As if rounding were not there, the gradient passes.
        passed = kernel + ops.stop_gradient(self.rounded_kernel() - kernel)
        with keras.StatelessScope(state_mapping=[(kernel, passed)]):
            return self.layer(inputs)

    def rounded_kernel(self):
        """The kernel as multiples of its channels' scales."""
        kernel = ops.convert_to_tensor(self.layer.kernel)
        kept = {axis % len(kernel.shape) for axis in _CHANNELS[type(self.layer)]}
        axes = tuple(axis for axis in range(len(kernel.shape)) if axis not in kept)
        largest = ops.max(ops.abs(kernel), axis=axes, keepdims=True)
        scale = ops.maximum(largest, _LEAST) / (2 ** (self.weights_bits - 1) - 1)
        return ops.round(kernel / scale) * scale

    def observe(self):
        """From now on looks at its inputs, and rounds nothing."""
        self._seen = 0.0, _LEAST

    def observed(self):
        """Rounds again, inputs to the range of those that it saw."""
        (low, high), self._seen = self._seen, None
        self.low.assign(low)
        self.high.assign(high)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "weights": self.weights_bits,
            "activations": self.activations_bits,
            "learned": self.learned,
            "rounds": self.rounds,
        }

    def _rounded_inputs(self, inputs):
        # Zero must be one of the steps, for padding and for what a ReLU cuts off.
        low, high = ops.minimum(self.low, 0.0), ops.maximum(self.high, _LEAST)
        inputs, bits = ops.cast(inputs, "float32"), self.activations_bits
        if not self.rounds:
            # The operation that converters know.
            return keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high, num_bits=bits)
        return fake_quantize(inputs, low, high, bits)


def fake_quantize(values, low, high, bits):
    """Values rounded to the nearest of 2^bits steps from low to high, of which zero is one.

    ```
    scale = (high - low) / (2^bits - 1)
    ```

    The same numbers as `keras.quantizers.fake_quant_with_min_max_vars`, but the range learns from all values, not only
    from those beyond it: as if rounding were not there in `d(rounded)/d(value)`, and as it is in `d(rounded)/d(scale)`.

    Args:
        values: float32, shape `[batch, ...]`.
        low: Scalar, 0 or less.
        high: Scalar above 0.
        bits: Number of bits.

    Reference:
        Esser et al., ICLR 2020, https://arxiv.org/abs/1902.08153 (learned step size)
    """
    last = 2**bits - 1
    # So that the range moves as slowly as weights do: its gradient is a sum over all values.
    slower = 1.0 / math.sqrt(math.prod(values.shape[1:]) * last) if None not in values.shape[1:] else 1.0 / last
    low, high = (slower * bound + (1 - slower) * ops.stop_gradient(bound) for bound in (low, high))
    scale = (high - low) / last
    zero = ops.stop_gradient(ops.clip(ops.floor(0.5 - low / scale), 0, last))
    steps = ops.clip(values / scale + zero, 0, last)
    steps += ops.stop_gradient(ops.floor(steps + 0.5) - steps)
    return (steps - zero) * scale


def choose_bits(model, kinds, default, others):
    """`[(layer, what is wanted of it)]` of the layers of some kinds, each once.

    Args:
        model: A `keras.Model`.
        kinds: Classes of layers; what inherits from them is another kind.
        default: What is wanted of those that are not named.
        others: `{pattern of paths: what is wanted}`; the first that fits counts.

    Raises:
        ValueError: If there is no such layer, or none that a pattern names.
    """
    possible = [(path, layer) for path, layer in walk_layers(model) if type(layer) in kinds]
    if not possible:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"'{model.name}' has no layer that can be quantised: {names}.")
    for pattern in others:
        if not any(_fits(path, pattern) for path, _ in possible):
            raise ValueError(f"No layer to quantise reads like '{pattern}'. There: {[path for path, _ in possible]}.")
    wanted = {
        id(layer): (layer, next((other for pattern, other in others.items() if _fits(path, pattern)), default))
        for path, layer in reversed(possible)
    }
    return list(wanted.values())


def _fits(path, pattern):
    return fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"*/{pattern}")


def _check_bits(given):
    for each in given:
        counts = [] if each is None else [each.weights] + [each.activations] * (each.activations is not None)
        if not all(count in range(2, 9) for count in counts):
            raise ValueError(f"Weights and activations have 2 to 8 bits. Received: {each}.")


def _calibrate(model, examples, batch_size):
    """Sets the ranges of activations to what examples come to in the model without rounding."""
    # Each once: nested models may share them.
    layers = {id(layer): layer for _, layer in walk_layers(model) if isinstance(layer, Quantized)}.values()
    layers = [layer for layer in layers if layer.activations_bits is not None]
    for layer in layers:
        layer.observe()
    for start in range(0, len(keras.tree.flatten(examples)[0]), batch_size):
        rows = slice(start, start + batch_size)
        model(keras.tree.map_structure(lambda x, rows=rows: ops.convert_to_tensor(x[rows]), examples), training=False)
    for layer in layers:
        layer.observed()
