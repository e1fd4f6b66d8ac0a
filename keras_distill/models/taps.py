"""Activations of layers, read by path in one forward pass."""

import contextlib
import difflib
import functools
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _compat
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
        if self._layers is None:
            self._layers = self._find(inputs)
        with _recording(self._layers.values(), self._attentions) as calls:
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
    with _recording([layer for _, layer in layers], ()) as calls:
        outputs = model(inputs, training=False)
    return outputs, [(path, layer, _hidden(layer, calls[id(layer)]) or calls[id(layer)]) for path, layer in layers]


def tap_names(tap: Tap) -> tuple[str, ...]:
    """Return the taps of one side of a comparison as a tuple."""
    return (tap,) if isinstance(tap, str) else tap


def select_activations(activations: dict, tap: Tap) -> Any:
    """Return the entry of a tap in `{tap: activation}`, or the tuple of entries of a tuple of taps."""
    return activations[tap] if isinstance(tap, str) else tuple(activations[name] for name in tap)


def find_layer(model: keras.Model, name: str) -> keras.layers.Layer:
    """Return the layer at a path, or at an unambiguous ending of one.

    Args:
        model: A `keras.Model`.
        name: Path such as "backbone/block_3", or its ending "block_3". A whole path has precedence over an ending.

    Raises:
        ValueError: If no layer matches (the error lists the closest paths), or several do.
    """
    layers = list(walk_layers(model))
    found = [(path, layer) for path, layer in layers if path == name]
    found = found or [(path, layer) for path, layer in layers if path.endswith("/" + name)]
    if len({id(layer) for _, layer in found}) > 1:
        raise ValueError(
            f"Several layers of '{model.name}' match '{name}': {[path for path, _ in found]}. "
            "Use a longer part of the path, or give the layers unique names."
        )
    if not found:
        paths = list(dict.fromkeys(path for path, _ in layers))
        endings = {path.rsplit("/", 1)[-1]: path for path in reversed(paths)}
        close = difflib.get_close_matches(name, paths, cutoff=0.5)
        close += [endings[ending] for ending in difflib.get_close_matches(name, endings, cutoff=0.5)]
        raise ValueError(
            f"No layer called '{name}' in '{model.name}'. Closest: {list(dict.fromkeys(close)) or paths[:10]}."
        )
    return found[0][1]


def walk_layers(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield every sublayer with its path; a layer with two paths is yielded twice."""
    for child in _compat.flatten_layers(layer, include_self=False, recursive=False):
        path = prefix + child.name
        yield path, child
        yield from walk_layers(child, path + "/")


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


class _Pass(threading.local):
    """Outputs of the tapped layers in this thread's pass, `{id(layer): [per call]}`, and masks for them.

    Thread-local, since `MirroredStrategy` runs its replicas in threads and switches between them during a pass.
    """

    calls = {}
    masks = {}


_pass = _Pass()
_lock = threading.Lock()
_watchers = {}


@contextlib.contextmanager
def _recording(tapped, attentions):
    layers = {id(layer): layer for layer in (*tapped, *attentions)}.values()
    outer = _pass.calls, _pass.masks
    _pass.calls, _pass.masks = {id(layer): [] for layer in tapped}, {}
    with _lock:
        for layer in layers:
            _watch(layer)
    try:
        yield _pass.calls
    finally:
        with _lock:
            for layer in layers:
                _unwatch(layer)
        _pass.calls, _pass.masks = outer


def _watch(layer):
    # One wrapper serves all threads that run this layer; the last one to leave removes it.
    _watchers[id(layer)] = _watchers.get(id(layer), 0) + 1
    if _watchers[id(layer)] > 1:
        return
    call = layer.call

    @functools.wraps(call)
    def recorded(*args, **kwargs):
        if isinstance(layer, keras.layers.MultiHeadAttention):
            _pass.masks.update(_masks_of_parts(layer, kwargs))
        outputs = call(*args, **kwargs)
        if id(layer) in _pass.calls:
            _pass.calls[id(layer)].append(_with_mask(outputs, _pass.masks.get(id(layer))))
        return outputs

    # Bypasses the layer's `__setattr__`, which would track the function.
    object.__setattr__(layer, "call", recorded)


def _unwatch(layer):
    _watchers[id(layer)] -= 1
    if not _watchers[id(layer)]:
        del _watchers[id(layer)]
        object.__delattr__(layer, "call")


def _masks_of_parts(attention, arguments):
    """Return masks for the sublayers of an attention, which strips them from its inputs before it calls these."""
    query, key, value = (arguments.get(f"{name}_mask") for name in ("query", "key", "value"))
    masks = {"query": query, "key": value if key is None else key, "value": value}
    return {id(part): masks[part.name] for _, part in walk_layers(attention) if part.name in masks}


def _with_mask(outputs, mask):
    """Return the outputs, as a copy if a mask is attached, which the model itself must not see."""
    if mask is None:
        return outputs
    outputs = tf.identity(outputs)
    _compat.set_keras_mask(outputs, mask)
    return outputs
