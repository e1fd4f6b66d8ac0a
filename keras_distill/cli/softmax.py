"""Models that end in a softmax, although losses compare logits: most that are saved for use do."""

import keras

from keras_distill.models.specs import Spec, input_specs, trace
from keras_distill.models.taps import walk_layers

# What tells a teacher's cache from that of the same teacher with its softmax.
LOGITS = "logits"


def without_softmax(model):
    """Takes the softmax off the end of a model, in its place.

    Args:
        model: A built `keras.Model`. One that ends in something else stays as it is.

    Returns:
        A function that puts it back; None if there was none.
    """
    if not _ends_in_softmax(model):
        return None
    for _, layer in reversed(list(walk_layers(model))):
        if getattr(layer, "activation", None) is keras.activations.softmax:
            layer.activation = keras.activations.linear
            put_back = _setter(layer)
        elif type(layer) is keras.layers.Softmax:
            layer.call = lambda inputs, mask=None: inputs
            put_back = _deleter(layer)
        else:
            continue
        if not _ends_in_softmax(model):
            return put_back
        # That of another layer, such as of an attention.
        put_back()
    return None


def _setter(layer):
    return lambda: setattr(layer, "activation", keras.activations.softmax)


def _deleter(layer):
    return lambda: delattr(layer, "call")


def _ends_in_softmax(model):
    try:
        spec = trace(lambda x: model(x, training=False), input_specs(None, model))
    except ValueError:
        # Of no known inputs; whoever needs them says so.
        return False
    return isinstance(spec, Spec) and spec.source == "Softmax"
