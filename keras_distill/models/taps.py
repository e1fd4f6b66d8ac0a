"""Activations of layers, read by path in one forward pass."""

import re
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_distill.models.layers import find_layer, walk_layers
from keras_distill.models.recording import recording
from keras_distill.models.specs import own_inputs
from keras_distill.types import Structure, Tap

OUTPUT = "output"
_SYNTAX = re.compile(r"(?P<path>[^@\[\]]+)(@(?P<call>\d+))?(\[(?P<item>[^\[\]]+)\])?")


class Taps:
    """Activations of several layers of a model, `{tap: activation}`, from ONE forward pass.

    The syntax of a tap is

    ```
    path            names of the nested layers, "backbone/block_3/conv", or an unambiguous ending, "conv"
    path@2          third call of a layer that a pass calls several times
    path[1]         second of several tensors that a layer returns; path[key] is an entry of a dictionary
    output          output of the model; output[1] and output[name] choose one of several outputs
    ```

    Functional, Sequential, subclassed and nested models are all supported: during the pass, the `call` of each tapped
    layer is replaced by a wrapper that records its outputs. Afterwards the model is unchanged.

    Args:
        model: A `keras.Model` or another callable. Layers are looked up in the first pass, since a model may create
            them only then.
        names: Taps, a list of strings.

    Raises:
        ValueError: For a tap that does not follow the syntax.

    Example:
    >>> taps = Taps(teacher, ["block_2", "output"])
    >>> taps(x, training=False)["block_2"].shape
    TensorShape([32, 8, 8, 16])
    """

    def __init__(self, model: Any, names: Iterable[str]):
        self.model = model
        self._taps = {name: _parse(name) for name in names}
        self._layers = None
        self._attentions = ()

    def __call__(self, inputs: Structure, training: bool) -> dict[str, Structure]:
        """Run the model and return its tapped activations.

        Args:
            inputs: Inputs of the model.
            training: Whether the model runs in training mode.

        Returns:
            `{tap: activation}`, in the compute dtype of the model. Keras masks stay attached.

        Raises:
            ValueError: If a tap matches no layer or several; if its layer was not called, or was called several times
                and the tap does not choose a call; or if its activation is not accessible: inside a loop, in a
                quantized layer, or in an operation fused with others.
        """
        inputs = own_inputs(self.model, inputs)
        if self._layers is None:
            self._layers = self._find(inputs)
        with recording(self._layers.values(), self._attentions) as calls:
            outputs = self.model(inputs, training=training)
        self._check_namesake(outputs, calls)
        for path, layer in self._layers.items():
            reason = path != OUTPUT and _hidden(layer, calls[id(layer)])
            if reason:
                raise ValueError(f"'{path}' of '{self.model.name}' {reason}")
        return {
            name: self._select(name, [outputs] if path == OUTPUT else calls[id(self._layers[path])])
            for name, (path, _, _) in self._taps.items()
        }

    def _find(self, inputs):
        paths = {path for path, _, _ in self._taps.values()}
        if not isinstance(self.model, keras.layers.Layer):
            return {}
        if not self.model.built:
            self.model(inputs)
        layers = {path: find_layer(self.model, path) for path in paths - {OUTPUT}}
        self._attentions = _attentions_around(layers.values(), self.model)
        namesakes = {path: layer for path, layer in walk_layers(self.model) if path == OUTPUT and path in paths}
        return layers | namesakes

    def _check_namesake(self, outputs, calls):
        """Raise for a layer named "output" whose activation is not the model's output."""
        if OUTPUT in self._layers:
            own = {id(tensor) for tensor in keras.tree.flatten(outputs)}
            if not own & {id(tensor) for tensor in keras.tree.flatten(calls[id(self._layers[OUTPUT])])}:
                raise ValueError(
                    f"The tap '{OUTPUT}' is the output of '{self.model.name}', but its layer of that name returns "
                    "another tensor. Rename the layer."
                )

    def _select(self, name, calls):
        path, call, item = self._taps[name]
        if call is None and len(calls) > 1:
            raise ValueError(
                f"'{self.model.name}' calls '{path}' {len(calls)} times per pass. "
                f"Choose a call, such as '{path}@0' for the first one."
            )
        if call is not None and call >= len(calls):
            raise ValueError(
                f"'{self.model.name}' calls '{path}' {len(calls)} times per pass, so '{path}@{call}' does not exist."
            )
        activation = calls[call or 0]
        if item is not None:
            activation = self._entry(name, activation, item)
        return activation

    def _entry(self, name, activation, item):
        if isinstance(activation, dict):
            entries = activation
        elif isinstance(activation, (list, tuple)):
            entries = {str(index): tensor for index, tensor in enumerate(activation)}
            # A functional model returns a list, but its outputs have names.
            names = getattr(self.model, "output_names", ()) if self._taps[name][0] == OUTPUT else ()
            entries.update(zip(names, activation))
        else:
            entries = {}
        if item not in entries:
            raise ValueError(
                f"Tap '{name}' matches no entry of '{self.model.name}'. Available entries: {list(entries)}."
            )
        return entries[item]


def layer_calls(model: keras.Model, inputs: Structure) -> tuple[Structure, list[tuple]]:
    """Run a model and return the outputs of every layer.

    Args:
        model: A `keras.Model`.
        inputs: Inputs of the model.

    Returns:
        `(outputs, [(path, layer, calls)])`: the model's outputs, and for each layer the list of outputs of its calls,
        or a sentence that explains why they are not accessible.
    """
    if not model.built:
        model(inputs)
    layers = [(path, layer) for path, layer in walk_layers(model) if not isinstance(layer, keras.layers.InputLayer)]
    with recording([layer for _, layer in layers]) as calls:
        outputs = model(inputs, training=False)
    return outputs, [(path, layer, _hidden(layer, calls[id(layer)]) or calls[id(layer)]) for path, layer in layers]


def tap_names(tap: Tap) -> tuple[str, ...]:
    """Return the taps of one side of a comparison as a tuple."""
    return (tap,) if isinstance(tap, str) else tap


def select_activations(activations: dict, tap: Tap) -> Any:
    """Return the entry of a tap in `{tap: activation}`, or the tuple of entries of a tuple of taps."""
    return activations[tap] if isinstance(tap, str) else tuple(activations[name] for name in tap)


def _attentions_around(layers, model):
    inner = {id(layer) for layer in layers}
    attentions = [layer for _, layer in walk_layers(model) if isinstance(layer, keras.layers.MultiHeadAttention)]
    return [attention for attention in attentions if inner & {id(part) for _, part in walk_layers(attention)}]


def _hidden(layer, calls):
    """Return a sentence that explains why the activations of a layer are not accessible; None if they are."""
    graph = tf.compat.v1.get_default_graph()
    if any(tf.is_symbolic_tensor(tensor) and tensor.graph is not graph for tensor in keras.tree.flatten(calls)):
        return (
            "runs inside a loop, like a cell of a recurrent layer, and its activation exists only there. "
            "Tap the enclosing layer."
        )
    if calls:
        return None
    if getattr(layer, "quantization_mode", None):
        return (
            "is quantized, and Keras runs quantized layers without their `call`. Tap the model before `quantize`, "
            "or the enclosing layer."
        )
    if isinstance(layer, keras.layers.Softmax):
        return (
            "is not called: attention without dropout computes its probabilities in one fused operation. Tap the "
            "'query', 'key' and 'value' of the attention, for AttentionRelation or AttentionScores."
        )
    return "is not called in the forward pass. Tap a layer that the model's `call` uses."


def _parse(name):
    match = _SYNTAX.fullmatch(name) if isinstance(name, str) else None
    if not match:
        raise ValueError(f"A tap must be 'path', 'path@call', 'path[item]' or '{OUTPUT}'. Received: {name!r}")
    path, call, item = match["path"], match["call"], match["item"]
    return path, None if call is None else int(call), None if item is None else item.strip("'\"")
