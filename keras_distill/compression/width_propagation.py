"""Widths of all tensors of a functional model in terms of the widths of its layers."""

from collections.abc import Callable
from fractions import Fraction

import keras

from keras_distill import _compat
from keras_distill.compression.graph_rebuilding import active_calls, config_of, tensors_in
from keras_distill.compression.model_settings import is_rebuilt
from keras_distill.compression.width_groups import Width, WidthGroups
from keras_distill.compression.width_inference import Axes, LayerCall, is_own_class
from keras_distill.compression.width_settings import other_integers, read_setting, shape_entries, width_settings
from keras_distill.models.specs import symbolic_inputs


class WidthPropagation:
    """Widths of the layers and tensors of a functional model.

    Each integer of a layer's config that may be a width is a variable. For each call of a layer, the output shape is
    computed once for each variable or input width that it depends on, with this one doubled. Where it fails, the width
    must be equal to another one, and both are put into one group; if there is none, it is fixed.

    Args:
        model: A functional model or built Sequential.
        factor: Factor of the widths, in (0, 1].
        narrow_nested: Function from a nested model with its own constructor to a narrower one.

    Attributes:
        settings: `{id(layer): {path in its config: width}}`.
        inputs: `{id(layer): widths of the inputs in its first call}`.
        calls: `{id(layer): its first call}`, of layers that are rebuilt.
        nested_models: Models inside that have their own constructors.
        narrowed: `{id(nested model): (narrower one, its widths)}`.
    """

    def __init__(self, model: keras.Model, factor: float, narrow_nested: Callable[[keras.Model], keras.Model]):
        self.groups = WidthGroups(factor)
        self.settings, self.inputs, self.calls, self.narrowed = {}, {}, {}, {}
        self._factor, self._narrow_nested = factor, narrow_nested
        self.nested_models, self._axes = [], {}
        inputs = keras.tree.flatten(symbolic_inputs(model))
        for axes in self._propagate(model, [self._constant(tensor) for tensor in inputs]):
            for width in axes:
                if width is not None:
                    self.groups.fix(width)

    def new_shape(self, tensor: keras.KerasTensor) -> tuple:
        """Return the shape of a tensor after scaling."""
        return tuple(None if width is None else self.groups.new_size(width) for width in self._axes[id(tensor)])

    def _constant(self, tensor):
        return [None if size is None else Width((), Fraction(size)) for size in tensor.shape]

    def _propagate(self, model: keras.Model, inputs: list[Axes]) -> list[Axes]:
        """Find the widths of all tensors of a model, and return those of its outputs."""
        tensors = keras.tree.flatten(symbolic_inputs(model))
        for tensor, axes in zip(tensors, inputs):
            # The outer model may know a length that is open here.
            self._axes[id(tensor)] = [
                None if size is None else width for size, width in zip(tensor.shape, axes, strict=True)
            ]
        for call in active_calls(model):
            arguments = [self._axes[id(tensor)] for tensor in tensors_in((call.args, call.kwargs))]
            self._equate_with_first_call(call.operation, arguments)
            if is_rebuilt(call.operation):
                outputs = self._propagate(call.operation, arguments)
            elif _compat.has_graph(call.operation):
                outputs = self._nested_outputs(call, arguments)
            else:
                layer_call = LayerCall(call, arguments, self._settings_of(call.operation), self.groups)
                self.calls.setdefault(id(call.operation), layer_call)
                outputs = layer_call.outputs()
            self._axes |= {id(tensor): axes for tensor, axes in zip(call.outputs, outputs, strict=True)}
        return [self._axes[id(tensor)] for tensor in keras.tree.flatten(_compat.graph_outputs(model))]

    def _equate_with_first_call(self, layer, arguments):
        """Equate the inputs of several calls of a layer, which has one set of weights."""
        self.inputs.setdefault(id(layer), arguments)
        if not getattr(layer, "weights", []):
            return
        for first, axes in zip(self.inputs[id(layer)], arguments):
            for one, other in zip(first, axes):
                if one and other and self.groups.size(one) == self.groups.size(other):
                    self.groups.equate(one, other)

    def _settings_of(self, layer):
        if id(layer) not in self.settings:
            config = config_of(layer)
            found = {} if hasattr(layer, "adapt") else width_settings(config, self._factor)
            found |= dict.fromkeys(shape_entries(config))
            if is_own_class(layer):
                found |= dict.fromkeys(other_integers(config, self._factor))
            self.settings[id(layer)] = {
                path: self.groups.add(read_setting(config, path), target) for path, target in found.items()
            }
        return self.settings[id(layer)]

    def _nested_outputs(self, call, arguments):
        """Return the output widths of a model that is narrowed by its own constructor."""
        model = call.operation
        for width in (width for axes in arguments for width in axes if width is not None):
            self.groups.fix(width)
        if id(model) not in self.narrowed:
            self.nested_models.append(model)
            self.narrowed[id(model)] = self._narrow_nested(model), {}
        narrower, widths = self.narrowed[id(model)]
        outputs = [self._constant(tensor) for tensor in call.outputs]
        for axes, tensor in zip(outputs, keras.tree.flatten(_compat.graph_outputs(narrower)), strict=True):
            for axis, new in enumerate(tensor.shape):
                if axes[axis] is None or new is None or self.groups.size(axes[axis]) == new:
                    continue
                sizes = self.groups.size(axes[axis]), new
                if sizes not in widths:
                    widths[sizes] = self.groups.add(*sizes)
                axes[axis] = widths[sizes]
        return outputs
