"""Batch-norm folding."""

import collections
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_distill.models.layers import walk_layers
from keras_distill.types import Tensor

_FOLDABLE = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return a copy of a model with batch normalization folded into the preceding layers.

    A BatchNormalization is folded if it follows a Dense, Conv1D, Conv2D or DepthwiseConv2D layer that has no activation
    and no other consumer. The layer's kernel and bias absorb scale and shift, and a `Folded` layer takes the place of
    the BatchNormalization. Predictions stay the same with fewer operations. Devices fold as well, so fold before
    quantizing: the quantized weights are then those that the device uses.

    Args:
        model: A functional or Sequential `keras.Model`. It is not modified.

    Returns:
        A new model, for inference or quantization-aware training.

    Raises:
        ValueError: If `model` is not functional.

    Example:

    >>> layers = [keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.BatchNormalization()]
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    >>> folded = fold_batch_norm(model)
    >>> [type(layer).__name__ for layer in folded.layers]
    ['Conv2D', 'Folded']

    Reference:
        Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877 (section 3.2)
    """
    pairs = {id(layer): normalization for layer, normalization in _foldable_pairs(model)}
    folded = {id(normalization) for normalization in pairs.values()}
    copies = []

    def clone(layer):
        if id(layer) in folded:
            return Folded(name=layer.name, dtype=layer.get_config()["dtype"])
        config = layer.get_config() | ({"use_bias": True} if id(layer) in pairs else {})
        copy = type(layer).from_config(config)
        copies.append((layer, copy))
        return copy

    folded_model = rebuild(model, clone)
    for layer, copy in copies:
        if id(layer) in pairs:
            copy.set_weights(_folded_weights(layer, pairs[id(layer)]))
        elif isinstance(layer, keras.layers.Layer):
            copy.set_weights(layer.get_weights())
    return folded_model


@keras.saving.register_keras_serializable("keras_distill")
class Folded(keras.layers.Layer):
    """Identity layer in the place of a folded BatchNormalization.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Example:

    >>> from keras_distill.compression.folding import Folded
    >>> layer = Folded(name="bn")
    >>> layer(np.ones((1, 2))).shape
    TensorShape([1, 2])
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return inputs


def rebuild(model: keras.Model, clone: Callable[[keras.layers.Layer], keras.layers.Layer]) -> keras.Model:
    """Return a functional model with every layer replaced.

    Args:
        model: A functional or Sequential `keras.Model`.
        clone: Function from a layer to its replacement. It is called once per layer, for nested models on their layers.

    Returns:
        A new model. The replaced layers keep the weights that `clone` gave them.

    Raises:
        ValueError: If `model` is not functional.
    """
    copies = {}

    def clone_once(layer):
        if id(layer) not in copies:
            functional = isinstance(layer, keras.Sequential) or hasattr(layer, "operations")
            # `recursive=True` of `clone_model` stops at the first level of nesting in Keras 3.12.
            copies[id(layer)] = (
                keras.models.clone_model(layer, clone_function=clone_once) if functional else clone(layer)
            )
        return copies[id(layer)]

    try:
        return keras.models.clone_model(model, clone_function=clone_once)
    except ValueError as error:
        raise ValueError(
            f"'{model.name}' is not a functional or Sequential model, so its layers cannot be replaced. {error}"
        ) from error


def _foldable_pairs(model):
    """Yield `(layer, BatchNormalization)` for each layer that can absorb the normalization after it."""
    for submodel in [model, *(layer for _, layer in walk_layers(model) if isinstance(layer, keras.Model))]:
        calls = _inbound_layers(submodel)
        num_consumers = collections.Counter(name for sources in calls.values() for call in sources for name in call)
        num_consumers.update(_output_layers(submodel))
        # Calls include operations such as `x + y`, which are not layers.
        layers = {layer.name: layer for layer in submodel.layers}
        for name, sources in calls.items():
            normalization = layers.get(name)
            if not isinstance(normalization, keras.layers.BatchNormalization) or len(sources) != 1:
                continue
            (source,) = sources[0]
            layer = layers.get(source)
            used_once = num_consumers[source] == 1 and len(calls[source]) == 1
            linear = isinstance(layer, _FOLDABLE) and layer.activation is keras.activations.linear
            if used_once and linear and normalization.axis in (-1, len(layer.output.shape) - 1):
                yield layer, normalization


def _inbound_layers(model):
    """Return `{layer name: [names of the input layers of each call]}`, read from the model's config."""
    if isinstance(model, keras.Sequential):
        names = [layer.name for layer in model.layers]
        return {name: [[source] if source else []] for source, name in zip([None, *names], names)}
    layers = model.get_config().get("layers", [])
    return {layer["name"]: [_layer_names(call) for call in layer["inbound_nodes"]] for layer in layers}


def _output_layers(model):
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    return _layer_names(model.get_config().get("output_layers", []))


def _layer_names(config):
    """Return the names of the layers in a serialized structure of symbolic tensors."""
    if isinstance(config, dict):
        if "keras_history" in config:
            return [config["keras_history"][0]]
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        # Keras serializes the outputs of a model as [layer name, call index, tensor index].
        if len(config) == 3 and isinstance(config[0], str) and isinstance(config[1], int):
            return [config[0]]
        return [name for part in config for name in _layer_names(part)]
    return []


def _folded_weights(layer, normalization):
    """Return the kernel and bias of a layer with scale and shift of the normalization applied."""
    gamma = 1.0 if normalization.gamma is None else normalization.gamma
    beta = 0.0 if normalization.beta is None else normalization.beta
    scale = gamma * ops.rsqrt(normalization.moving_variance + normalization.epsilon)
    bias = 0.0 if layer.bias is None else layer.bias
    kernel = layer.kernel
    # The channels of a depthwise kernel are its two last axes together.
    shape = kernel.shape[-2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else kernel.shape[-1:]
    return [kernel * ops.reshape(scale, shape), (bias - normalization.moving_mean) * scale + beta]
