"""Layers of a model, by path."""

import difflib
import fnmatch
from collections.abc import Iterator

import keras

from keras_distill import _compat


def find_layer(model: keras.Model, name: str) -> keras.layers.Layer:
    """Return the layer at a path, or at an unambiguous ending of one.

    Args:
        model: A `keras.Model`.
        name: Path such as "backbone/block_3", or its ending "block_3". A whole path has precedence over an ending.

    Raises:
        ValueError: If no layer matches (the error lists the closest paths), or several do.
    """
    layers = list(walk_layers(model))
    found = [(path, layer) for path, layer in layers if path == name]
    found = found or [(path, layer) for path, layer in layers if path.endswith("/" + name)]
    if len({id(layer) for _, layer in found}) > 1:
        raise ValueError(
            f"Several layers of '{model.name}' match '{name}': {[path for path, _ in found]}. "
            "Use a longer part of the path, or give the layers unique names."
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


def matches_pattern(path: str, pattern: str) -> bool:
    """Return whether a path, or an ending of it that begins at a layer's name, matches a pattern.

    Args:
        path: Path of a layer, such as "backbone/block_3".
        pattern: Pattern in which a `*` stands for any characters, `/` included.
    """
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}")


def walk_layers(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield every sublayer with its path; a layer with two paths is yielded twice."""
    for child in _compat.flatten_layers(layer, include_self=False, recursive=False):
        path = prefix + child.name
        yield path, child
        yield from walk_layers(child, path + "/")


def direct_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer without those of layers inside. Seed generator states are not `weights`."""
    inside = {id(weight) for _, child in walk_layers(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inside]
