"""Layers of two models that correspond to each other by their names."""

import re

import keras

from keras_distill import _compat


def matching_layers(
    student: keras.layers.Layer, teacher: keras.layers.Layer
) -> dict[int, tuple[str, keras.layers.Layer]]:
    """Return the teacher's layer of the same path for each layer of a student.

    The running numbers of names that Keras made up do not count: in a second model of the same architecture, "dense" is
    called "dense_4" and "gpt2_backbone" "gpt2_backbone_1". Such layers correspond in their order.

    Args:
        student: A `keras.Model`, or a layer with layers inside.
        teacher: Another one.

    Returns:
        `{id(student layer): (teacher path, teacher layer)}`, without layers that have no counterpart.
    """
    found = {}
    _match_children(student, teacher, "", found)
    return found


def _match_children(student, teacher, prefix, found):
    student_children, teacher_children = _children(student), _children(teacher)
    student_keys, teacher_keys = _keys(student_children, teacher_children), _keys(teacher_children, student_children)
    counterparts = dict(zip(teacher_keys, teacher_children))
    for key, child in zip(student_keys, student_children):
        # A layer with several paths has the counterpart of the first one.
        if key in counterparts and id(child) not in found:
            counterpart = counterparts[key]
            path = prefix + counterpart.name
            found[id(child)] = path, counterpart
            _match_children(child, counterpart, path + "/", found)


def _children(layer):
    return _compat.flatten_layers(layer, include_self=False, recursive=False)


def _keys(layers, others):
    """Return the name of each layer, or `(class, position)` if Keras numbered it and the other model differs."""
    names = {_automatic(layer): set() for layer in [*layers, *others]}
    other_names = {kind: set() for kind in names}
    for layer in layers:
        names[_automatic(layer)].add(layer.name)
    for layer in others:
        other_names[_automatic(layer)].add(layer.name)
    positions = dict.fromkeys(names, 0)
    keys = []
    for layer in layers:
        kind = _automatic(layer)
        same = names[kind] <= other_names[kind] or other_names[kind] <= names[kind]
        keys.append(layer.name if kind is None or same else (kind, positions[kind]))
        positions[kind] += 1
    return keys


def _automatic(layer):
    """Return the class name of a layer whose name Keras made of it and a running number; None for another name."""
    base = re.sub(r"_\d+$", "", layer.name)
    class_name = type(layer).__name__
    return class_name if base.replace("_", "") == class_name.replace("_", "").lower() else None
