"""Output widths of one layer in terms of its input widths and settings, found by shape inference."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import keras

from keras_distill import _compat
from keras_distill.compression.graph_rebuilding import config_of, describe, from_config, map_tensors
from keras_distill.compression.width_groups import Width, WidthGroups
from keras_distill.compression.width_settings import HEAD_COUNTS, Path, other_integers, shape_entries, with_settings

# Width of each axis; None for one of unknown length.
Axes = list[Width | None]


def is_own_class(layer: Any) -> bool:
    """Return whether the class of a layer is the user's, not one of Keras or KerasHub."""
    return type(layer).__module__.split(".")[0] not in ("keras", "keras_hub")


class LayerCall:
    """One call of a layer, whose output shape can be computed for other widths of its inputs and settings.

    Args:
        call: The call.
        inputs: Widths of its input tensors.
        settings: `{path in the config: width}`.
        groups: Groups of the variables, which `outputs` joins and fixes.

    Attributes:
        layer: The layer.
    """

    def __init__(self, call: _compat.GraphCall, inputs: list[Axes], settings: dict[Path, Width], groups: WidthGroups):
        self.layer, self._call, self._inputs, self._settings = call.operation, call, inputs, settings
        self._groups, self._known_shapes = groups, {}
        self._config = config_of(self.layer)
        self._entries = [settings[path] for path in shape_entries(self._config) if path in settings]
        self._base = [tuple(tensor.shape) for tensor in call.outputs]

    def outputs(self) -> list[Axes]:
        """Return the widths of the outputs.

        Raises:
            ValueError: If the layer cannot be adapted to narrower inputs; the error names it.
        """
        if hasattr(self.layer, "adapt"):
            # The statistics belong to these channels.
            for width in self._free_inputs():
                self._fix(width)
        if self._entries:
            self._match_target_shape()
        if is_own_class(self.layer):
            self._fix_other_integers()
        for width in self._free():
            width = self._groups.variable_of(width)
            if width.terms and self._shapes([width]) is None:
                self._find_partner(width)
        while True:
            effects = {width: self._shapes([width]) for width in self._free()}
            if len(effects) < 2 or self._shapes(effects) == self._sum_of(effects):
                break
            # The output is a product of two widths.
            self._fix(next(iter(effects)))
        self._check_own_class(effects)
        outputs = [self._output_axes(place, effects) for place in range(len(self._base))]
        for width in (width for axes in outputs for width in axes if width is not None):
            self._groups.make_divisible(width)
        return outputs

    def kinds_of_units(self) -> list[list[Width]]:
        """Return the widths that can change its weights, each in a list; the numbers of its heads are in one list."""
        counts = [width for path, width in self._settings.items() if path[-1] in HEAD_COUNTS]
        heads = self._not_fixed(counts)
        others = [[width] for width in self._free() if width not in heads]
        return [heads, *others] if heads else others

    def weight_shapes(self, doubled: Iterable[Width]) -> list[tuple] | None:
        """Return the shapes of its weights with some widths doubled, or None if the layer does not accept this."""
        layer, args, kwargs = self._variant(frozenset(doubled))
        try:
            layer(*args, **kwargs)
        except Exception:
            # See `_infer_shapes`.
            return None
        return [tuple(weight.shape) for weight in layer.weights]

    def _free_inputs(self):
        return self._not_fixed(width for axes in self._inputs for width in axes if width is not None)

    def _free(self):
        """Return the different widths that may change the output, those of the inputs first."""
        return list(dict.fromkeys([*self._free_inputs(), *self._not_fixed(self._settings.values())]))

    def _not_fixed(self, widths):
        variables = dict.fromkeys(self._groups.variable_of(width) for width in widths)
        return [width for width in variables if width.terms]

    def _match_target_shape(self):
        """Equate the channels with an entry of a target shape, and fix the other entries.

        Each entry is tried from the last axis on, before the shape as it is, in which an entry of -1 would take up
        other channels.
        """
        for width in self._free_inputs()[:-1]:
            self._fix(width)
        matched = None
        for width in self._free_inputs():
            fits = (
                entry for entry in self._entries if self._shapes([width, self._groups.variable_of(entry)]) is not None
            )
            matched = next(fits, None)
            if matched is not None:
                self._equate(width, matched)
        for entry in self._entries:
            if entry is not matched:
                self._fix(entry)

    def _fix_other_integers(self):
        """Fix those integers of a config that do not change the last axis, or change others, too."""
        for path in other_integers(self._config, 1):
            shapes = self._shapes([self._groups.variable_of(self._settings[path])])
            expected = [(*shape[:-1], 2 * (shape[-1] or 0)) if shape else shape for shape in self._base]
            if shapes is not None and shapes != expected:
                self._fix(self._settings[path])

    def _find_partner(self, width):
        """Equate a width with others that can only change together with it, or fix it if there are none."""
        others = [other for other in self._free() if other != width]
        same_size = [other for other in others if self._groups.size(other) == self._groups.size(width)]
        for partners in [same_size, *([other] for other in dict.fromkeys(same_size + others))]:
            if partners and self._shapes([width, *partners]) is not None:
                for other in partners:
                    self._equate(width, other)
                return
        inflexible = is_own_class(self.layer) or self._entries
        if inflexible and width in self._free_inputs():
            raise ValueError(
                f"{describe(self.layer)} does not take inputs of another width than {self._groups.size(width)}. "
                "Replace it with a layer that computes its shapes from those of its inputs; for a Reshape, keep the "
                "channels in the last axis."
            )
        self._fix(width)

    def _equate(self, one, other):
        ratio = Fraction(self._groups.size(one), self._groups.size(other))
        self._groups.equate(one, other * ratio)
        self._known_shapes.clear()

    def _fix(self, width):
        self._groups.fix(width)
        self._known_shapes.clear()

    def _shapes(self, doubled: Iterable[Width]) -> list[tuple] | None:
        """Return the output shapes with some widths doubled, or None if the layer does not accept this."""
        doubled = frozenset(doubled)
        if doubled not in self._known_shapes:
            self._known_shapes[doubled] = self._infer_shapes(doubled)
        return self._known_shapes[doubled]

    def _infer_shapes(self, doubled):
        layer, args, kwargs = self._variant(doubled)
        # Creating weights of twice the width takes time and memory. Merging layers check their inputs only then.
        infer = layer.compute_output_spec if self._infers_without_weights() else layer
        try:
            outputs = infer(*args, **kwargs)
        except Exception:
            # Keras, TensorFlow and custom layers raise exceptions of many classes for shapes.
            return None
        return [tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)]

    def _variant(self, doubled):
        """Return `(layer, args, kwargs)` with some widths doubled, to be called."""

        def size(width):
            old = self._groups.size(width)
            # Not halved: numbers of groups and heads must divide it.
            return 2 * old if self._groups.variable_of(width) in doubled else old

        inputs = iter(self._inputs)

        def symbolic(tensor):
            shape = [None if width is None else size(width) for width in next(inputs)]
            return keras.KerasTensor(shape, tensor.dtype, sparse=tensor.sparse)

        args, kwargs = map_tensors(symbolic, (self._call.args, self._call.kwargs))
        config = with_settings(self._config, {path: size(width) for path, width in self._settings.items()})
        return from_config(self.layer, config), args, kwargs

    def _infers_without_weights(self):
        if type(self.layer).__module__.split(".")[0] != "keras" or not isinstance(self.layer, keras.layers.Layer):
            return False
        return (
            len(self._inputs) == 1 and type(self.layer).compute_output_shape != keras.layers.Layer.compute_output_shape
        )

    def _output_axes(self, place, effects):
        axes = []
        for axis, size in enumerate(self._base[place]):
            width = None if size is None else Width((), Fraction(size))
            for doubled, shapes in effects.items() if size is not None else ():
                old = self._groups.size(doubled)
                change = Fraction(shapes[place][axis] - size, old)
                width += doubled * change + Width((), -change * old)
            axes.append(width)
        return axes

    def _sum_of(self, effects):
        """Return the output shapes with all widths doubled, if each of them has the same effect as alone."""
        return [
            tuple(
                None if size is None else size + sum(shapes[place][axis] - size for shapes in effects.values())
                for axis, size in enumerate(shape)
            )
            for place, shape in enumerate(self._base)
        ]

    def _check_own_class(self, effects):
        """Raise for a user's layer whose output has a width that neither its inputs nor its settings determine."""
        changed = any(shapes != self._base for shapes in effects.values())
        wide = any(shape and (shape[-1] or 0) > 1 for shape in self._base)
        if is_own_class(self.layer) and self._free_inputs() and not changed and wide:
            raise ValueError(
                f"{describe(self.layer)} has an output of shape {self._base} for inputs of any width, and no integer "
                "of its config changes its last axis, so that its width cannot be determined. Let its `get_config` "
                "return its width, e.g. as `units`."
            )
