"""Copies of functional models with other layers, other shapes or fewer calls."""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_distill import _compat
from keras_distill.compression.model_settings import is_rebuilt
from keras_distill.models.layers import walk_layers
from keras_distill.models.specs import symbolic_inputs


def rebuild_graph(
    model: keras.Model,
    make: Callable[[Any], Any],
    shape_of: Callable[[keras.KerasTensor], tuple] | None = None,
    skipped: Mapping[int, keras.KerasTensor] | None = None,
) -> keras.Model:
    """Return a functional or Sequential model with every layer replaced, nested models included.

    `folding.rebuild` replaces layers in the same places; this function can also change shapes and leave out calls.

    Args:
        model: A functional model or built Sequential. It is not modified.
        make: Function that returns the replacement of a layer or operation. It is called once for each. Nested models
            are rebuilt, unless they are subclasses with their own constructor.
        shape_of: Function that returns the new shape of a symbolic tensor of the model. Defaults to None, the same.
        skipped: `{id(output): input}` of calls to leave out: symbolic tensors and those that take their places.
            Defaults to none.

    Returns:
        A new model with the same names. The state of preprocessing layers is copied.

    Raises:
        ValueError: If a layer cannot be replaced; the error names it.
    """
    rebuilding = _Rebuilding(make, shape_of or (lambda tensor: tuple(tensor.shape)), skipped or {})
    rebuilt = rebuilding.graph(model)
    for layer, copy in rebuilding.copies.values():
        if isinstance(layer, keras.layers.Layer) and not _compat.has_graph(layer):
            copy_preprocessing(layer, copy)
    return rebuilt


def replay(tensor: keras.KerasTensor, skipped: Mapping[int, keras.KerasTensor]) -> keras.KerasTensor:
    """Return the tensor that takes the place of another one if some calls are left out."""
    while id(tensor) in skipped:
        tensor = skipped[id(tensor)]
    return tensor


def active_calls(model: keras.Model, skipped: Mapping[int, keras.KerasTensor] | None = None) -> list[_compat.GraphCall]:
    """Return the calls of a functional model that its outputs depend on, in the order of execution.

    Args:
        model: A functional model or built Sequential.
        skipped: See `rebuild_graph`.
    """
    skipped = skipped or {}
    needed = {id(replay(tensor, skipped)) for tensor in keras.tree.flatten(_compat.graph_outputs(model))}
    active = []
    for call in reversed(_compat.graph_calls(model)):
        if any(id(tensor) in needed for tensor in call.outputs):
            active.append(call)
            needed |= {id(replay(tensor, skipped)) for tensor in tensors_in((call.args, call.kwargs))}
    return active[::-1]


def tensors_in(structure: Any) -> list[keras.KerasTensor]:
    """Return the symbolic tensors of a structure."""
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]


def map_tensors(function: Callable[[keras.KerasTensor], Any], structure: Any) -> Any:
    """Return a structure with each symbolic tensor replaced by the value of a function."""
    return keras.tree.map_structure(lambda x: function(x) if isinstance(x, keras.KerasTensor) else x, structure)


def from_config(layer: Any, config: dict) -> Any:
    """Return a layer or operation of the same class.

    Args:
        layer: A layer or operation.
        config: Its config, which may be modified.

    Raises:
        ValueError: If the class cannot be constructed from it; the error names the layer.
    """
    try:
        return type(layer).from_config(config)
    except Exception as error:
        raise ValueError(
            f"{describe(layer)} cannot be constructed from its config: {' '.join(str(error).split())} Let its "
            "`get_config` return all arguments of its constructor."
        ) from error


def config_of(layer: Any) -> dict:
    """Return the config of a layer or operation, without the shapes of layers inside.

    Args:
        layer: A layer or operation.

    Raises:
        ValueError: For a Lambda layer, and for a class without a config; the error names the layer.
    """
    if isinstance(layer, keras.layers.Lambda):
        raise ValueError(
            f"{describe(layer)} holds a function that cannot be adapted to other shapes. Replace it with a layer class "
            "that has a `get_config`, or with operations of `keras.ops`."
        )
    try:
        return _without_build_configs(layer.get_config())
    except NotImplementedError as error:
        raise ValueError(
            f"{describe(layer)} has no config. Implement its `get_config`, which returns the arguments of its "
            "constructor."
        ) from error


def _without_build_configs(config):
    """Return a config without the shapes with which layers are built as soon as they are constructed."""
    if isinstance(config, dict):
        # KerasHub's TransformerDecoder has `decoder_sequence_shape`.
        shapes = [key for key in config if key == "build_config" or key.endswith("_sequence_shape")]
        return {key: _without_build_configs(value) for key, value in config.items() if key not in shapes}
    if type(config) in (list, tuple):
        return type(config)(_without_build_configs(value) for value in config)
    return config


def describe(layer: Any) -> str:
    """Return the name and class of a layer or operation, for errors."""
    return f"Layer '{layer.name}' ({type(layer).__name__})"


def copy_preprocessing(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Copy what `adapt` computed, such as the mean and variance of a Normalization, in the layer or inside of it."""
    sources = [layer, *(inner for _, inner in walk_layers(layer))]
    for source, target in zip(sources, [copy, *(inner for _, inner in walk_layers(copy))]):
        if not hasattr(source, "adapt"):
            continue
        store = {}
        source.save_own_variables(store)
        if store:
            target.load_own_variables(store)
        if hasattr(source, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)


class _Rebuilding:
    """State of `rebuild_graph`: one copy per layer, `{id(layer): (layer, copy)}`."""

    def __init__(self, make, shape_of, skipped):
        self._make, self._shape_of, self._skipped = make, shape_of, skipped
        self.copies = {}

    def copy(self, layer):
        if id(layer) not in self.copies:
            # Kept with the original, whose id could otherwise be that of another object later.
            self.copies[id(layer)] = layer, (self.graph(layer) if is_rebuilt(layer) else self._make(layer))
        return self.copies[id(layer)][1]

    def graph(self, model):
        calls = active_calls(model, self._skipped)
        sequential = isinstance(model, keras.Sequential)
        inputs = keras.tree.map_structure(lambda x: self._input(x, sequential), symbolic_inputs(model))
        if sequential:
            # The graph also has operations that compute masks, which the layers of a Sequential pass on themselves.
            layers = [self.copy(call.operation) for call in calls if call.operation in model.layers]
            return keras.Sequential([inputs, *layers], name=model.name)
        originals = keras.tree.flatten(symbolic_inputs(model))
        tensors = {id(tensor): new for tensor, new in zip(originals, keras.tree.flatten(inputs))}

        def value(tensor):
            return tensors[id(replay(tensor, self._skipped))]

        for call in calls:
            outputs = self._call(call, map_tensors(value, call.args), map_tensors(value, call.kwargs))
            tensors |= {id(old): new for old, new in zip(call.outputs, keras.tree.flatten(outputs))}
        outputs = keras.tree.map_structure(value, _compat.graph_outputs(model))
        return keras.Model(inputs, outputs, name=model.name)

    def _call(self, call, args, kwargs):
        copy = self.copy(call.operation)
        try:
            outputs = copy(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"{describe(call.operation)} does not take the new shapes of its inputs: "
                f"{' '.join(str(error).split())} Replace it with a layer that computes its shapes from those of its "
                "inputs."
            ) from error
        expected = [tuple(self._shape_of(tensor)) for tensor in call.outputs]
        received = [tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)]
        if expected != received:
            raise ValueError(
                f"{describe(call.operation)} has the output shape {received} on narrower inputs, expected {expected}. "
                "Replace it with a layer that computes its shapes from those of its inputs."
            )
        return outputs

    def _input(self, tensor, open_batch):
        layer, shape = _compat.input_layer(tensor), self._shape_of(tensor)
        # A Sequential that was built from data has the size of this batch.
        config = layer.get_config() | {"batch_shape": (None, *shape[1:]) if open_batch else shape}
        return type(layer).from_config(config).output
