"""Functional models with narrower layers."""

import math
from collections.abc import Callable

import keras

from keras_distill.compression.graph_rebuilding import config_of, from_config, rebuild_graph
from keras_distill.compression.width_propagation import WidthPropagation
from keras_distill.compression.width_settings import with_settings


def narrow(model: keras.Model, factor: float, scale: Callable[[keras.Model], keras.Model]) -> keras.Model:
    """Return a model with narrower layers and the same inputs and outputs; the model itself if none is narrower.

    Args:
        model: A functional model or built Sequential. It is not modified.
        factor: Factor of the widths, in (0, 1].
        scale: Function that scales models inside that have their own constructors.

    Raises:
        ValueError: If a layer cannot be adapted; the error names it.
    """
    widths = WidthPropagation(model, factor, scale)
    groups = widths.groups

    def is_used(nested):
        """Return whether a nested model can be narrowed: all axes that change with it."""
        narrower, axes = widths.narrowed[id(nested)]
        return narrower is not nested and all(groups.new_size(width) == new for (_, new), width in axes.items())

    def make(layer):
        if id(layer) in widths.narrowed:
            return widths.narrowed[id(layer)][0] if is_used(layer) else from_config(layer, config_of(layer))
        sizes = {path: groups.new_size(width) for path, width in widths.settings[id(layer)].items()}
        config = with_settings(config_of(layer), sizes)
        return from_config(layer, _with_groups(config, widths.inputs[id(layer)], groups))

    settings = [width for found in widths.settings.values() for width in found.values()]
    narrower = any(groups.new_size(width) < groups.size(width) for width in settings)
    if not narrower and not any(is_used(nested) for nested in widths.nested_models):
        return model
    return rebuild_graph(model, make, widths.new_shape)


def _with_groups(config, inputs, groups):
    """Return a config whose number of groups divides the channels, for grouped convolutions and GroupNormalization."""
    number = config.get("groups")
    if not isinstance(number, int) or number < 2:
        return config
    free = [width for width in inputs[0] if width is not None and not groups.is_fixed(width)]
    channels = [groups.new_size(width) for width in free]
    if "filters" in config:
        channels.append(config["filters"])
    return config | {"groups": math.gcd(number, *channels)}
