"""BatchNormalization that becomes part of the layer before it."""

import collections

import keras
from keras import ops

from keras_distill.models.taps import walk_layers

_LINEAR = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norm(model):
    """A model that computes the same in inference with fewer operations: what normalisation does, weights do.

    A BatchNormalization behind a Dense, Conv1D, Conv2D or DepthwiseConv2D without an activation, whose output goes
    nowhere else, becomes a `Folded`, and the layer's kernel and bias take up its scale and shift. Devices do so, too:
    quantised weights must be those that they will use.

    Args:
        model: A functional or Sequential `keras.Model`; it stays as it is.

    Raises:
        ValueError: If the model is not functional.

    Reference:
        Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877 (section 3.2)
    """
    pairs = {id(before): normalization for before, normalization in _pairs(model)}
    folded = {id(normalization) for normalization in pairs.values()}
    made = []

    def clone(layer):
        if id(layer) in folded:
            return Folded(name=layer.name, dtype=layer.get_config()["dtype"])
        config = layer.get_config() | ({"use_bias": True} if id(layer) in pairs else {})
        copy = type(layer).from_config(config)
        made.append((layer, copy))
        return copy

    copied = rebuild(model, clone)
    for layer, copy in made:
        if id(layer) in pairs:
            copy.set_weights(_folded(layer, pairs[id(layer)]))
        elif isinstance(layer, keras.layers.Layer):
            copy.set_weights(layer.get_weights())
    return copied


@keras.saving.register_keras_serializable("keras_distill")
class Folded(keras.layers.Layer):
    """Returns its inputs, where a normalisation was."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return inputs


def rebuild(model, clone):
    """A functional model of other layers.

    Args:
        model: A `keras.Model`.
        clone: Gives the layer that stands for a given one, in nested models, too; it is asked once about each.

    Raises:
        ValueError: If the model is not functional.
    """
    made = {}

    def once(layer):
        if id(layer) not in made:
            functional = isinstance(layer, keras.Sequential) or hasattr(layer, "operations")
            # Keras' own way into nested models, `recursive=True`, ends at the first level in Keras 3.12.
            made[id(layer)] = keras.models.clone_model(layer, clone_function=once) if functional else clone(layer)
        return made[id(layer)]

    try:
        return keras.models.clone_model(model, clone_function=once)
    except ValueError as error:
        raise ValueError(f"Only functional models can be rebuilt, and '{model.name}' is none: {error}") from error


def _pairs(model):
    """Each layer that can be folded, with its BatchNormalization."""
    for each in [model, *(layer for _, layer in walk_layers(model) if isinstance(layer, keras.Model))]:
        calls = _calls(each)
        taken = collections.Counter(name for sources in calls.values() for call in sources for name in call)
        taken.update(_returned(each))
        # Operations such as `x + y` take part in calls, and are no layers.
        layers = {layer.name: layer for layer in each.layers}
        for name, sources in calls.items():
            normalization = layers.get(name)
            if not isinstance(normalization, keras.layers.BatchNormalization) or len(sources) != 1:
                continue
            (source,) = sources[0]
            before = layers.get(source)
            once = taken[source] == 1 and len(calls[source]) == 1
            linear = isinstance(before, _LINEAR) and before.activation is keras.activations.linear
            if once and linear and normalization.axis in (-1, len(before.output.shape) - 1):
                yield before, normalization


def _calls(model):
    """`{layer: [names of the layers that each of its calls takes from]}`, as the model's config tells."""
    if isinstance(model, keras.Sequential):
        names = [layer.name for layer in model.layers]
        return {name: [[before] if before else []] for before, name in zip([None, *names], names)}
    layers = model.get_config().get("layers", [])
    return {layer["name"]: [_names(call) for call in layer["inbound_nodes"]] for layer in layers}


def _returned(model):
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    return _names(model.get_config().get("output_layers", []))


def _names(written):
    """The layers that a written structure of symbolic tensors names."""
    if isinstance(written, dict):
        if "keras_history" in written:
            return [written["keras_history"][0]]
        written = list(written.values())
    if isinstance(written, (list, tuple)):
        # The outputs of a model are written as [name, call, tensor].
        if len(written) == 3 and isinstance(written[0], str) and isinstance(written[1], int):
            return [written[0]]
        return [name for part in written for name in _names(part)]
    return []


def _folded(layer, normalization):
    """Kernel and bias with the scale and shift of a normalisation."""
    gamma = 1.0 if normalization.gamma is None else normalization.gamma
    beta = 0.0 if normalization.beta is None else normalization.beta
    scale = gamma * ops.rsqrt(normalization.moving_variance + normalization.epsilon)
    bias = 0.0 if layer.bias is None else layer.bias
    kernel = layer.kernel
    # Of a depthwise kernel the two last axes together are the channels.
    shape = kernel.shape[-2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else kernel.shape[-1:]
    return [kernel * ops.reshape(scale, shape), (bias - normalization.moving_mean) * scale + beta]
