"""Quantization-aware training (QAT)."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_distill.compression.fake_quantization import CHANNEL_AXES, Quantized
from keras_distill.compression.folding import fold_batch_norm, rebuild
from keras_distill.models.layers import direct_weights, matches_pattern, walk_layers
from keras_distill.types import Structure
from keras_distill.utils.arguments import check_integer, check_model


class BitWidths(NamedTuple):
    """Bit widths of a quantized layer.

    Attributes:
        weights: Bits of each kernel weight, 2 to 8. Biases are not quantized, because devices store them in int32.
            Defaults to 8.
        activations: Bits of each input of the layer, 2 to 8; None does not quantize the inputs. Defaults to 8.

    Example:

    >>> BitWidths(weights=4)
    BitWidths(weights=4, activations=8)
    """

    weights: int = 8
    activations: int | None = 8


INT8 = BitWidths()


def quantize_aware(
    model: keras.Model,
    examples: Structure,
    bits: BitWidths = INT8,
    overrides: Mapping[str, BitWidths | None] | None = None,
    train_ranges: bool = True,
    batch_size: int = 128,
) -> keras.Model:
    """Return a copy of a model for quantization-aware training (QAT), with fake quantization of weights and inputs.

    Kernels are rounded to multiples of a scale per channel, `max|w| / (2^(bits-1) - 1)`, and the inputs of a layer to
    `2^bits` steps of a range. Gradients pass the rounding unchanged (straight-through estimator). The ranges of the
    inputs are calibrated on `examples`. Batch normalization is folded first (`fold_batch_norm`), as devices do.
    Quantized layers are Dense, Conv1D, Conv2D, DepthwiseConv2D and Conv2DTranspose. A warning names the layers whose
    kernels stay in float: layers of other classes, such as SeparableConv2D, and those inside of other layers, such as
    the Dense of a TimeDistributed.

    Args:
        model: A trained functional or Sequential `keras.Model`. It is not modified.
        examples: Calibration data: model inputs from the training set, some hundreds of examples.
        bits: `BitWidths` of the layers that `overrides` does not match. Defaults to 8 bits for weights and activations.
        overrides: Bit widths of single layers, `{pattern: BitWidths or None}`, e.g. `{"logits": None, "block_3_*":
            BitWidths(4, 8)}`. A pattern is a path or the end of one, in which a `*` stands for any characters. The
            first matching pattern applies; None does not quantize the layer. Defaults to none.
        train_ranges: Whether training also updates the ranges of the inputs. Defaults to True.
        batch_size: Batch size of the calibration, >= 1. Defaults to 128.

    Returns:
        A new model to train further. Layer names and taps stay the same ("conv" still reads the layer's output).

    Raises:
        ValueError: If `model` is not functional or has no layer that can be quantized, if a pattern matches no such
            layer, if a bit width is not from 2 to 8, if `batch_size` is not an integer >= 1, or if `examples` is empty
            or leads to NaN or infinity.

    Example:

    >>> quantized = quantize_aware(student, x, overrides={"logits": None, "block_*": BitWidths(4, 8)})
    >>> distiller = Distiller(student=quantized, teacher=teacher, terms=[Term(KLDivergence(4.0))])

    Reference:
        Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877; Polino et al., ICLR 2018,
        https://arxiv.org/abs/1802.05668 (distillation of quantized students)
    """
    check_model(model, "model")
    overrides = overrides or {}
    _check_bits([bits, *overrides.values()])
    check_integer(batch_size, "batch_size")
    if not len(keras.tree.flatten(examples)[0]):
        raise ValueError("`examples` is empty. Pass some hundreds of model inputs, from which ranges are calibrated.")
    model = fold_batch_norm(model)
    layer_bits = {id(layer): value for layer, value in select_layers(model, tuple(CHANNEL_AXES), bits, overrides)}
    copies, quantized = [], set()

    def clone(layer):
        copy = type(layer).from_config(layer.get_config())
        if layer_bits.get(id(layer)) is not None:
            quantized.add(id(layer))
            weights, activations = layer_bits[id(layer)]
            copy = Quantized(copy, weights, activations, train_ranges, name=layer.name, dtype=layer.dtype_policy)
        copies.append((layer, copy))
        return copy

    quantized_model = rebuild(model, clone)
    excluded = {key for key, value in layer_bits.items() if value is None}
    if not quantized and not excluded:
        _raise_nothing_to_quantize(model, tuple(CHANNEL_AXES))
    warn_of_float_kernels(model, quantized, excluded)
    for layer, copy in copies:
        if isinstance(layer, keras.layers.Layer):
            (copy.layer if isinstance(copy, Quantized) else copy).set_weights(layer.get_weights())
    _calibrate(quantized_model, examples, batch_size)
    return quantized_model


def bake_quantization(model: keras.Model, activations: bool = True) -> keras.Model:
    """Return a copy of a `quantize_aware` model whose kernels hold their quantized values, for export.

    Args:
        model: A `keras.Model` with quantized layers. It is not modified.
        activations: Whether the layers still quantize their inputs. With False they become plain Keras layers. Defaults
            to True.

    Returns:
        A new model.

    Raises:
        ValueError: If `model` has no quantized layers.

    Example:

    >>> baked = bake_quantization(quantize_aware(student, x))
    """
    if not any(isinstance(layer, Quantized) for _, layer in walk_layers(model)):
        raise ValueError(f"'{model.name}' has no quantized layers. Create them with `quantize_aware(model, examples)`.")
    copies = []

    def clone(layer):
        source = layer.layer if isinstance(layer, Quantized) and not activations else layer
        config = source.get_config() | ({"quantize_kernel": False} if isinstance(source, Quantized) else {})
        copy = type(source).from_config(config)
        copies.append((layer, source, copy))
        return copy

    baked_model = rebuild(model, clone)
    for layer, source, copy in copies:
        if isinstance(source, keras.layers.Layer):
            copy.set_weights(source.get_weights())
        if isinstance(layer, Quantized):
            (copy.layer if activations else copy).kernel.assign(layer.quantized_kernel())
    return baked_model


def select_layers(
    model: keras.Model, classes: Sequence[type], default: Any, overrides: Mapping[str, Any]
) -> list[tuple[keras.layers.Layer, Any]]:
    """Return `[(layer, setting)]` for all layers of the given classes, each layer once.

    Args:
        model: A `keras.Model`.
        classes: Layer classes. Subclasses do not count.
        default: Setting of the layers that no pattern matches.
        overrides: `{pattern of layer paths: setting}`; the first matching pattern applies.

    Raises:
        ValueError: If `model` has no layer of these classes, or if a pattern matches none of them.
    """
    candidates = [(path, layer) for path, layer in walk_layers(model) if type(layer) in classes]
    if not candidates:
        _raise_nothing_to_quantize(model, classes)
    for pattern in overrides:
        if not any(matches_pattern(path, pattern) for path, _ in candidates):
            paths = [path for path, _ in candidates]
            raise ValueError(f"No layer to quantize matches '{pattern}'. Layers: {paths}.")
    # Reversed: the first path of a layer with several paths overwrites the others.
    settings = {
        id(layer): (
            layer,
            next((value for pattern, value in overrides.items() if matches_pattern(path, pattern)), default),
        )
        for path, layer in reversed(candidates)
    }
    return list(settings.values())


def _raise_nothing_to_quantize(model, classes):
    names = ", ".join(layer_class.__name__ for layer_class in classes)
    raise ValueError(f"'{model.name}' has no layer that can be quantized ({names}).")


def warn_of_float_kernels(model: keras.Model, quantized: Collection[int], excluded: Collection[int]) -> None:
    """Warn of layers whose kernels or embeddings stay in float.

    Args:
        model: The model that is quantized.
        quantized: `id` of its layers that are quantized.
        excluded: `id` of its layers that the user excluded.
    """
    known = {*quantized, *excluded}
    # Kernels have two axes or more; biases, scales and statistics have one.
    left = {
        id(layer): f"'{path}' ({type(layer).__name__})"
        for path, layer in walk_layers(model)
        if id(layer) not in known and any(len(weight.shape) > 1 for weight in direct_weights(layer))
    }
    if left:
        names = ", ".join(list(left.values())[:10]) + (", ..." if len(left) > 10 else "")
        warnings.warn(
            f"{len(left)} layers of '{model.name}' are not quantized, their kernels stay in float: {names}. Replace "
            "them by layers that can be quantized, outside of wrappers such as TimeDistributed, or accept their size.",
            stacklevel=3,
        )


def _check_bits(settings):
    for bits in settings:
        widths = [] if bits is None else [bits.weights] + [bits.activations] * (bits.activations is not None)
        if not all(width in range(2, 9) for width in widths):
            raise ValueError(f"Bit widths must be integers from 2 to 8. Received: {bits}")


def _calibrate(model, examples, batch_size):
    """Set the ranges of activations to the minima and maxima over the examples, without quantization."""
    # A dictionary by identity, because nested models may share layers.
    layers = {id(layer): layer for _, layer in walk_layers(model) if isinstance(layer, Quantized)}.values()
    layers = [layer for layer in layers if layer.activations_bits is not None]
    for layer in layers:
        layer.start_calibration()
    for start in range(0, len(keras.tree.flatten(examples)[0]), batch_size):
        rows = slice(start, start + batch_size)
        model(keras.tree.map_structure(lambda x, rows=rows: ops.convert_to_tensor(x[rows]), examples), training=False)
    for layer in layers:
        layer.finish_calibration()
