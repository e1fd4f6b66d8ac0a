"""Models that are constructed again from scaled integers of their config, such as the backbones of KerasHub."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import keras

from keras_distill import _compat
from keras_distill.compression.graph_rebuilding import from_config
from keras_distill.compression.model_settings import Choose, has_settings, scaled_settings
from keras_distill.compression.width_settings import HEAD_COUNTS, HEAD_SIZES, WIDTHS
from keras_distill.models.layers import find_layer, walk_layers
from keras_distill.models.specs import input_specs

Scale = Callable[[keras.Model, float, float], keras.Model]


def scale_config(model: keras.Model, width: float, depth: float, scale: Scale) -> keras.Model:
    """Return a model of the same class, constructed from scaled integers; the model itself if none changes.

    Settings of widths that would change the outputs are kept, unless the model is a backbone, whose outputs are
    features.

    Args:
        model: A model for which `has_settings` is true. It is not modified.
        width: Factor of the widths, in (0, 1].
        depth: Factor of the number of layers, in (0, 1].
        scale: Function `(model, width, depth)` that scales models inside of it.

    Raises:
        ValueError: If the class cannot be constructed from the scaled config, or takes other inputs then.
    """
    config = model.get_config()
    parts = {key: getattr(model, key, None) for key, value in config.items() if _is_serialized(value)}
    scaled = {key: scale(part, width, depth) for key, part in parts.items() if isinstance(part, keras.Model)}
    changed = any(scaled[key] is not parts[key] for key in scaled)
    # Without weights, e.g. a preprocessor, whose vocabulary is not in its config.
    scaled |= {key: part for key, part in parts.items() if key not in scaled and _is_weightless(part)}
    settings = {key: value for key, value in scaled_settings(config, width, depth).items() if config[key] != value}
    if not settings and not changed:
        return model
    smaller = construct(model, settings, scaled)
    if not _is_backbone(model) and _output_shapes(smaller) != _output_shapes(model):
        names = [key for key in settings if key in (*WIDTHS, *HEAD_COUNTS, *HEAD_SIZES)]
        kept = {
            key for key in names if _output_shapes(construct(model, {key: settings[key]}, {})) != _output_shapes(model)
        }
        settings = {key: value for key, value in settings.items() if key not in kept}
        if not settings and not changed:
            return model
        smaller = construct(model, settings, scaled)
    _check_signature(model, smaller)
    return smaller


def pair_numbered_layers(student: keras.Model, teacher: keras.Model, choose: Choose) -> list[tuple[str, str]]:
    """Return `(student path, teacher path)` of layers that a constructor numbers.

    The student's layers 0, 1, 2 of a model with half as many layers correspond to 0, 2, 4 of the teacher if these are
    evenly spaced.

    Args:
        student: A model that `scale_config` returned, or with such models inside.
        teacher: The model that was scaled.
        choose: Function that chooses the layers of the teacher.
    """
    pairs = []
    for path, model in [("", student), *walk_layers(student)]:
        if not has_settings(model):
            continue
        source = find_layer(teacher, path) if path else teacher
        numbered, others = numbered_children(model), numbered_children(source)
        prefix = f"{path}/" if path else ""
        for key, names in numbered.items():
            count, total = len(names), len(others.get(key, ()))
            layers = [(find_layer(source, name),) for name in others.get(key, ())]
            kept = choose(layers, count / total) if total > count else []
            pairs += [(prefix + names[i], prefix + others[key][number]) for i, number in enumerate(kept)]
    return pairs


def numbered_children(model):
    """Return `{(class, name without its number): [names in the order of the numbers]}`."""
    found = {}
    for layer in _compat.flatten_layers(model, include_self=False, recursive=False):
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", layer.name)
        if match:
            key = type(layer).__name__, match[1], match[3]
            found.setdefault(key, {})[int(match[2])] = layer.name
    return {key: [names[number] for number in sorted(names)] for key, names in found.items()}


def construct(model: keras.Model, settings: dict[str, Any], parts: dict[str, Any]) -> keras.Model:
    """Return a built model of the same class from a changed config.

    Args:
        model: A built model whose class has a config.
        settings: Entries of the config that change, by name.
        parts: Models and layers that replace serialized ones in the config, by name.

    Raises:
        ValueError: If the class cannot be constructed from the config.
    """
    # A fresh config, since `from_config` may modify it.
    config = model.get_config()
    smaller = from_config(model, _left_out(model, config) | config | settings | parts)
    if not smaller.built or not getattr(smaller, "inputs", None):
        specs = keras.tree.map_structure(
            lambda spec: keras.KerasTensor(tuple(spec.shape), spec.dtype.name), input_specs(None, model)
        )
        smaller(specs)
    return smaller


def _left_out(model, config):
    """Return arguments of a constructor that the config leaves out, such as `tie_word_embeddings` in KerasHub 0.32."""
    names = [name for name in inspect.signature(type(model).__init__).parameters if name not in config]
    values = {name: getattr(model, name, None) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}


def _check_signature(model, smaller):
    old, new = (_shapes(input_specs(None, each)) for each in (model, smaller))
    ranks = [[len(shape) for shape in _output_shapes(each)] for each in (model, smaller)]
    if old != new or ranks[0] != ranks[1]:
        raise ValueError(
            f"'{model.name}' ({type(model).__name__}) has other inputs or outputs when it is constructed from scaled "
            f"integers: {new} and {_output_shapes(smaller)}, before {old} and {_output_shapes(model)}. Construct the "
            "student by hand."
        )


def _output_shapes(model):
    if _compat.has_graph(model):
        return _shapes(_compat.graph_outputs(model))
    specs = keras.tree.map_structure(
        lambda spec: keras.KerasTensor(tuple(spec.shape), spec.dtype.name), input_specs(None, model)
    )
    return _shapes(model(specs))


def _shapes(structure):
    return [tuple(leaf.shape) for leaf in keras.tree.flatten(structure)]


def _is_serialized(value):
    return isinstance(value, dict) and "class_name" in value


def _is_weightless(part):
    return isinstance(part, keras.layers.Layer) and not part.weights


def _is_backbone(model):
    return any(cls.__name__ == "Backbone" for cls in type(model).__mro__)
