"""Reading layers of any model, by path, in one forward pass."""

import contextlib
import difflib
import functools
import re
import threading

import keras
import tensorflow as tf

OUTPUT = "output"
_SYNTAX = re.compile(r"(?P<path>[^@\[\]]+)(@(?P<call>\d+))?(\[(?P<item>[^\[\]]+)\])?")


class Taps:
    """`{tap: activation}` of ONE forward pass of a model.

    A tap is written

    ```
    path            the layer's names from the outside in, "backbone/block_3/conv", or an unambiguous ending, "conv"
    path@2          its third call, where a pass calls it several times
    path[1]         the second of the tensors it returns; path["key"] and path[key] name an entry of a dictionary
    output          what the model itself returns; output[1] and output[name] choose among several
    ```

    Functional, Sequential, subclassed and nested models are read alike: while the pass runs, the `call` of each tapped
    layer is replaced by one that also notes what it returns. Afterwards the model is as it was.

    Args:
        model: The model; its layers are looked up in the first pass, since a model may create them only then.
        names: The taps.

    Raises:
        ValueError: For a tap that is not written as above.
    """

    def __init__(self, model, names):
        self.model = model
        self._taps = {name: _parse(name) for name in names}
        self._layers = None
        self._attentions = ()

    def __call__(self, inputs, training):
        """Runs the model.

        Args:
            inputs: What the model is called with.
            training: Whether it runs as in training.

        Returns:
            `{tap: activation}`, in the precision the model computes in. Keras masks stay attached.

        Raises:
            ValueError: If a tap names no layer, or several; if its layer was not called, was called several times and
                the tap does not say which call is meant, or ran where its activation cannot be seen: inside a loop,
                quantised, or in one operation with others.
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
        """Refuses a layer that is called "output", but whose activation is not the model's."""
        if OUTPUT in self._layers:
            own = {id(tensor) for tensor in keras.tree.flatten(outputs)}
            if not own & {id(tensor) for tensor in keras.tree.flatten(calls[id(self._layers[OUTPUT])])}:
                raise ValueError(
                    f"The tap '{OUTPUT}' means what '{self.model.name}' returns, but its layer of that name returns "
                    "something else. Rename the layer."
                )

    def _select(self, name, calls):
        path, call, item = self._taps[name]
        if call is None and len(calls) > 1:
            raise ValueError(
                f"'{self.model.name}' calls '{path}' {len(calls)} times in a pass. "
                f"Say which call is meant, the first being '{path}@0'."
            )
        if call is not None and call >= len(calls):
            raise ValueError(
                f"'{self.model.name}' calls '{path}' {len(calls)} times in a pass, which leaves no '{path}@{call}'."
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
            raise ValueError(f"Tap '{name}' finds no entry '{item}' in '{self.model.name}'. There: {list(entries)}.")
        return entries[item]


def layer_calls(model, inputs):
    """Every layer of a model, and what it does in one pass.

    Args:
        model: A `keras.Model`.
        inputs: What it is called with.

    Returns:
        `(outputs, [(path, layer, calls)])`: what the model returns, and for each layer that takes part a list of what
        each of its calls returned, or why that cannot be seen, as a sentence about the layer.
    """
    if not model.built:
        model(inputs)
    layers = [(path, layer) for path, layer in walk_layers(model) if not isinstance(layer, keras.layers.InputLayer)]
    with _recording([layer for _, layer in layers], ()) as calls:
        outputs = model(inputs, training=False)
    return outputs, [(path, layer, _hidden(layer, calls[id(layer)]) or calls[id(layer)]) for path, layer in layers]


def tap_names(tap):
    """The taps of one side of a comparison, which may be one or a tuple of several."""
    return (tap,) if isinstance(tap, str) else tap


def select_activations(activations, tap):
    """The entry of a tap among `{tap: activation}`, or the tuple of entries of a tuple of taps."""
    return activations[tap] if isinstance(tap, str) else tuple(activations[name] for name in tap)


def find_layer(model, name):
    """The layer at a path, or at an unambiguous ending of one.

    Args:
        model: The model.
        name: Such as "backbone/block_3" or "block_3". A whole path comes before an ending.

    Raises:
        ValueError: If there is none (the error names the closest), or several.
    """
    layers = list(walk_layers(model))
    found = [(path, layer) for path, layer in layers if path == name]
    found = found or [(path, layer) for path, layer in layers if path.endswith("/" + name)]
    if len({id(layer) for _, layer in found}) > 1:
        raise ValueError(
            f"Several layers of '{model.name}' are called '{name}': {[path for path, _ in found]}. "
            "Write more of the path, or give the layers names of their own."
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


def walk_layers(layer, prefix=""):
    """Every sublayer with its path; one that is reached in two ways comes once for each."""
    for child in layer._flatten_layers(include_self=False, recursive=False):
        path = prefix + child.name
        yield path, child
        yield from walk_layers(child, path + "/")


def _attentions_around(layers, model):
    inner = {id(layer) for layer in layers}
    attentions = [layer for _, layer in walk_layers(model) if isinstance(layer, keras.layers.MultiHeadAttention)]
    return [attention for attention in attentions if inner & {id(part) for _, part in walk_layers(attention)}]


def _hidden(layer, calls):
    """Why the activations of a layer cannot be seen in a pass in which it made these calls; None if they can."""
    graph = tf.compat.v1.get_default_graph()
    if any(tf.is_symbolic_tensor(tensor) and tensor.graph is not graph for tensor in keras.tree.flatten(calls)):
        return (
            "runs inside a loop, as a cell of a recurrent layer does: its activation exists only there. "
            "Tap the layer around it."
        )
    if calls:
        return None
    if getattr(layer, "quantization_mode", None):
        return (
            "is quantised, and Keras runs such layers where they cannot be tapped. Tap the model before `quantize`, "
            "or the layer around it."
        )
    if isinstance(layer, keras.layers.Softmax):
        return (
            "is not called: attention without dropout computes its probabilities in one operation with all else. Tap "
            "its 'query', 'key' and 'value' for an AttentionRelation or AttentionScores."
        )
    return "is not called. Tap a layer that the model's `call` goes through."


def _parse(name):
    match = _SYNTAX.fullmatch(name) if isinstance(name, str) else None
    if not match:
        raise ValueError(f"A tap is written 'path', 'path@call', 'path[item]' or '{OUTPUT}'. Received: {name!r}")
    path, call, item = match["path"], match["call"], match["item"]
    return path, None if call is None else int(call), None if item is None else item.strip("'\"")


class _Pass(threading.local):
    """What the tapped layers returned, `{id(layer): [of each call]}`, in this thread's pass, and masks for them.

    Of each thread, since `MirroredStrategy` runs its replicas in threads and changes between them in mid-pass.
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
    # One replacement serves all threads that are in a pass of this layer; the last one to leave takes it away.
    _watchers[id(layer)] = _watchers.get(id(layer), 0) + 1
    if _watchers[id(layer)] > 1:
        return
    call = layer.call

    @functools.wraps(call)
    def noted(*args, **kwargs):
        if isinstance(layer, keras.layers.MultiHeadAttention):
            _pass.masks.update(_masks_of_parts(layer, kwargs))
        outputs = call(*args, **kwargs)
        if id(layer) in _pass.calls:
            _pass.calls[id(layer)].append(_with_mask(outputs, _pass.masks.get(id(layer))))
        return outputs

    # Past the layer's own `__setattr__`, which would track it.
    object.__setattr__(layer, "call", noted)


def _unwatch(layer):
    _watchers[id(layer)] -= 1
    if not _watchers[id(layer)]:
        del _watchers[id(layer)]
        object.__delattr__(layer, "call")


def _masks_of_parts(attention, arguments):
    """Masks for the sub-layers of an attention, which takes them off its inputs before it calls these."""
    query, key, value = (arguments.get(f"{name}_mask") for name in ("query", "key", "value"))
    masks = {"query": query, "key": value if key is None else key, "value": value}
    return {id(part): masks[part.name] for _, part in walk_layers(attention) if part.name in masks}


def _with_mask(outputs, mask):
    """The outputs; a copy if they get a mask, which the model itself must not see."""
    if mask is None:
        return outputs
    outputs = tf.identity(outputs)
    outputs._keras_mask = mask
    return outputs
