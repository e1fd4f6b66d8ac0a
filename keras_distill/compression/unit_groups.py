"""Axes of weights that have the same units, in models that were narrowed by `shrink`."""

from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_distill.compression.config_scaling import construct, numbered_children
from keras_distill.compression.graph_rebuilding import config_of
from keras_distill.compression.layer_matching import matching_layers
from keras_distill.compression.model_settings import has_settings
from keras_distill.compression.width_propagation import WidthPropagation
from keras_distill.compression.width_settings import HEAD_COUNTS, WIDTHS
from keras_distill.models.layers import direct_weights, find_layer, walk_layers


class Axis(NamedTuple):
    """Axis of a weight.

    Attributes:
        weight: `id` of the weight.
        number: Number of the axis.
        size: Its size.
        new_size: Its size in the narrower model, which is smaller.
    """

    weight: int
    number: int
    size: int
    new_size: int


def unit_groups(
    model: keras.Model, narrower: keras.Model, factor: float, scale: Callable[[keras.Model], keras.Model]
) -> list[list[Axis]]:
    """Return the axes that got shorter, grouped by the units that they have.

    Units that cannot be chosen freely are left out: those flattened or concatenated with others, those of layers with
    groups of channels or with several gates, and those that a model inside with its own constructor returns.

    Args:
        model: The wide model.
        narrower: The model that `narrow` or `scale_config` made from it.
        factor: Factor of the widths, in (0, 1).
        scale: Function that scales models inside that have their own constructors.
    """
    groups = _Groups(model, narrower)
    if has_settings(model):
        groups.add_model(model, narrower)
    else:
        widths = WidthPropagation(model, factor, scale)
        groups.add_graph(widths)
        for path, nested in walk_layers(model):
            if id(nested) in widths.narrowed:
                groups.add_model(nested, find_layer(narrower, path), only_blocks=True)
    return groups.free()


class _Groups:
    """Axes by a key of their units. A key is blocked if its units cannot be chosen."""

    def __init__(self, model, narrower):
        self._axes, self._blocked, self._new_shapes = {}, set(), {}
        counterparts = matching_layers(narrower, model)
        for _, layer in walk_layers(narrower):
            if id(layer) in counterparts:
                weights = zip(direct_weights(layer), direct_weights(counterparts[id(layer)][1]))
                self._new_shapes |= {id(wide): tuple(weight.shape) for weight, wide in weights}

    def free(self):
        """Return the axes of each key, without those of blocked keys and of axes that several keys claim."""
        keys = {}
        for key, axes in self._axes.items():
            for axis in axes:
                keys.setdefault(axis, []).append(key)
        blocked = self._blocked | {key for claims in keys.values() if len(claims) > 1 for key in claims}
        return [list(axes) for key, axes in self._axes.items() if key not in blocked]

    def add_graph(self, widths):
        """Add the axes of the layers of a graph. Their keys are variables of the widths."""
        for call in widths.calls.values():
            weights = getattr(call.layer, "weights", [])
            has_groups = bool(weights) and (config_of(call.layer).get("groups") or 1) > 1
            for units in call.kinds_of_units() if weights else ():
                variables = [variable for width in units for variable, _ in width.terms]
                simple = len(variables) == len(units) and not any(width.constant for width in units)
                shapes = None if has_groups else call.weight_shapes(units)
                axes = [] if shapes is None else self._changed(weights, shapes)
                # Others are sums of several widths, or multiples, as of the gates of an LSTM and after Flatten.
                sizes = [widths.groups.size(width) for width in units]
                if shapes is None or not simple or any(axis.size not in sizes for axis in axes):
                    self._blocked |= set(variables)
                else:
                    self._axes.setdefault(variables[0], {}).update(dict.fromkeys(axes))
        for _, outputs in widths.narrowed.values():
            for width in outputs.values():
                self._blocked |= {variable for variable, _ in widths.groups.variable_of(width).terms}

    def add_model(self, model, narrower, only_blocks=False):
        """Add the axes of a model with its own constructor. Their keys are its settings, and a block.

        Units that occur in the numbered blocks only are chosen in each of them, such as those of feed-forward networks;
        others are the same in the whole model. With `only_blocks`, those are blocked.
        """
        for owner, smaller in _owners(model, narrower):
            blocks = {
                id(weight): name
                for names in numbered_children(owner).values()
                for name in names
                if len(names) > 1
                for weight in find_layer(owner, name).weights
            }
            for settings, axes in self._axes_of_settings(model, owner, smaller):
                everywhere = any(axis.weight not in blocks for axis in axes)
                for axis in axes:
                    key = id(owner), *settings, None if everywhere else blocks[axis.weight]
                    self._axes.setdefault(key, {})[axis] = None
                    if everywhere and only_blocks:
                        self._blocked.add(key)

    def _axes_of_settings(self, model, owner, smaller):
        """Return `[(settings that change together, the axes whose size they are)]`."""
        config, found = owner.get_config(), []
        for settings in _kinds_of_settings(config, smaller.get_config()):
            try:
                variant = _with_settings(model, owner, settings)
            except ValueError:
                # Such as heads of an odd size with rotary embeddings.
                found.append((settings, None))
            else:
                found.append((settings, self._changed(model.weights, [weight.shape for weight in variant.weights])))
        claimed = {axis for _, axes in found for axis in axes or ()}
        failed = [settings for settings, axes in found if axes is None]
        # A single one that cannot change alone has the axes that no other has.
        left = [axis for axis in self._changed(model.weights) if axis not in claimed] if len(failed) == 1 else []
        for settings, axes in found:
            axes = left if axes is None else axes
            # The size of a head changes with its number and with the hidden size.
            exact = [axis for axis in axes if axis.size in [config[key] for key in settings]]
            if exact or len({axis.size for axis in axes}) == 1:
                yield tuple(settings), exact or axes

    def _changed(self, weights, shapes=None):
        """Return the axes that got shorter; with `shapes`, those that have another size there."""
        return [
            Axis(id(weight), number, size, new)
            for place, weight in enumerate(weights)
            for number, (size, new) in enumerate(zip(weight.shape, self._new_shapes.get(id(weight), weight.shape)))
            if new < size and (shapes is None or shapes[place][number] != size)
        ]


def _owners(model, narrower):
    """Return `[(model, narrower one)]` of a model and the models inside that have their own settings."""
    config = model.get_config()
    owners = [(model, narrower)]
    for key in config:
        part = getattr(model, key, None)
        if isinstance(part, keras.Model):
            owners += _owners(part, getattr(narrower, key))
    return owners


def _kinds_of_settings(config, smaller):
    """Return dictionaries of the settings that differ, each with its new size; the numbers of heads in one."""
    new = {key: smaller[key] for key in (*WIDTHS, *HEAD_COUNTS) if key in config and config[key] != smaller[key]}
    heads = {key: size for key, size in new.items() if key in HEAD_COUNTS}
    return [*([heads] if heads else []), *({key: size} for key, size in new.items() if key not in heads)]


def _with_settings(model, owner, settings):
    """Return a model with changed settings of a model inside."""
    if model is owner:
        return construct(model, settings, {})
    parts = {key: getattr(model, key, None) for key in model.get_config()}
    parts = {key: part for key, part in parts.items() if isinstance(part, keras.layers.Layer)}
    models = {key: part for key, part in parts.items() if isinstance(part, keras.Model)}
    return construct(model, {}, parts | {key: _with_settings(part, owner, settings) for key, part in models.items()})
