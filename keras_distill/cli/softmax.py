"""Removal of a softmax at the end of a model: losses compare logits, most saved models return probabilities."""

from collections.abc import Callable

import keras

from keras_distill.models.specs import Spec, input_specs, trace
from keras_distill.models.taps import walk_layers

# Version in a teacher's cache: distinguishes cached logits from cached probabilities of the same teacher.
LOGITS = "logits"


def without_softmax(model: keras.Model) -> Callable[[], None] | None:
    """Remove the softmax at the end of a model in place.

    Args:
        model: A built model. It is left as it is if it does not end in a softmax.

    Returns:
        A function that restores the softmax, or None if there was none.
    """
    if not _ends_in_softmax(model):
        return None
    for _, layer in reversed(list(walk_layers(model))):
        if getattr(layer, "activation", None) is keras.activations.softmax:
            layer.activation = keras.activations.linear
            restore = _restore_activation(layer)
        elif type(layer) is keras.layers.Softmax:
            layer.call = lambda inputs, mask=None: inputs
            restore = _restore_call(layer)
        else:
            continue
        if not _ends_in_softmax(model):
            return restore
        # This softmax is not the last one, e.g. that of an attention layer.
        restore()
    return None


def _restore_activation(layer: keras.layers.Layer) -> Callable[[], None]:
    return lambda: setattr(layer, "activation", keras.activations.softmax)


def _restore_call(layer: keras.layers.Layer) -> Callable[[], None]:
    return lambda: delattr(layer, "call")


def _ends_in_softmax(model: keras.Model) -> bool:
    try:
        spec = trace(lambda x: model(x, training=False), input_specs(None, model))
    except ValueError:
        # The input shapes are unknown; a command that needs them raises the error.
        return False
    return isinstance(spec, Spec) and spec.source == "Softmax"
