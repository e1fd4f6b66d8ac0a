"""Outputs of the layers that a forward pass calls, recorded by wrapping their `call`."""

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf

from keras_distill import _compat
from keras_distill.models.layers import walk_layers


class _Pass(threading.local):
    """Outputs or inputs of the tapped layers in this thread's pass, `{id(layer): [per call]}`, and masks for them.

    Thread-local, since `MirroredStrategy` runs its replicas in threads and switches between them during a pass.
    """

    calls = {}
    masks = {}
    inputs = False


_pass = _Pass()


_lock = threading.Lock()


_watchers = {}


@contextlib.contextmanager
def recording(tapped: Iterable, attentions: Iterable = (), inputs: bool = False) -> Iterator[dict]:
    """Record the outputs of layers, or their inputs, while a model runs in the context.

    Args:
        tapped: Layers to record.
        attentions: `MultiHeadAttention` layers around them, whose masks are attached to the outputs of their sublayers.
            Defaults to none.
        inputs: Whether to record the first argument of each call rather than its outputs. Defaults to False.

    Returns:
        `{id(layer): [outputs or first argument of each call]}`, filled during the pass.
    """
    layers = {id(layer): layer for layer in (*tapped, *attentions)}.values()
    outer = _pass.calls, _pass.masks, _pass.inputs
    _pass.calls, _pass.masks, _pass.inputs = {id(layer): [] for layer in tapped}, {}, inputs
    with _lock:
        for layer in layers:
            _watch(layer)
    try:
        yield _pass.calls
    finally:
        with _lock:
            for layer in layers:
                _unwatch(layer)
        _pass.calls, _pass.masks, _pass.inputs = outer


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
        if id(layer) in _pass.calls and _pass.inputs:
            _pass.calls[id(layer)].append(next(iter((*args, *kwargs.values()))))
        elif id(layer) in _pass.calls:
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
