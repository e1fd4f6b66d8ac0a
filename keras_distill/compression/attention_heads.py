"""Heads of attention layers that are copied to a student with fewer heads."""

from collections.abc import Callable

import keras

from keras_distill.models.layers import walk_layers


def head_indices(
    student: keras.Model, source_of: Callable[[keras.Variable], keras.Variable | None]
) -> dict[int, tuple[int, list[int]]]:
    """Return which heads of the teacher's grouped-query attentions a student gets.

    In grouped-query attention, `g = query heads / key-value heads` consecutive query heads share a key-value head. A
    student with a smaller `g` gets the first query heads of each group, so that each stays with its key-value head.

    Args:
        student: The student.
        source_of: Function that returns the teacher's weight from which a weight of the student is copied, or None.

    Returns:
        `{id(student weight): (axis, indices)}` for weights whose heads are not the first ones.

    Raises:
        ValueError: If student and teacher have rotary position embeddings and heads of different sizes, or if a
            key-value head of the student has more query heads than the teacher's.
    """
    layers = list(walk_layers(student))
    rotary = any("rotary" in cls.__name__.lower() for _, layer in layers for cls in type(layer).__mro__)
    indices = {}
    for path, layer in [("", student), *layers]:
        parts = {
            inner.name: inner
            for inner_path, inner in walk_layers(layer)
            if "/" not in inner_path and isinstance(inner, keras.layers.EinsumDense) and inner.built
        }
        if {"query", "key"} <= set(parts):
            indices |= _indices_of_attention(path, parts, source_of, rotary)
    return indices


def _indices_of_attention(path, parts, source_of, rotary):
    query, key = parts["query"], parts["key"]
    query_source, key_source = source_of(query.kernel), source_of(key.kernel)
    if query_source is None or key_source is None:
        return {}
    head_axis, size_axis = _axes(query, outputs=True)
    sizes = query.kernel.shape[size_axis], query_source.shape[size_axis]
    if rotary and sizes[0] != sizes[1]:
        raise ValueError(
            f"'{path}' of the student has heads of size {sizes[0]}, the teacher's have {sizes[1]}. Rotary position "
            "embeddings pair dimension i with dimension i + size / 2, so that a part of a head means something else. "
            "Use a student with heads of the teacher's size and fewer heads, or leave its attention out of the copy: "
            "`unpaired=False`, with `pairs` of the other layers."
        )
    key_axis = _axes(key, outputs=True)[0]
    groups = key.kernel.shape[key_axis]
    per_group = query.kernel.shape[head_axis] // groups
    source_per_group = query_source.shape[head_axis] // key_source.shape[key_axis]
    if per_group == source_per_group:
        return {}
    if per_group > source_per_group:
        raise ValueError(
            f"'{path}' of the student has {per_group} query heads per key-value head, the teacher's has "
            f"{source_per_group}. Use a student with at most as many, or leave its attention out of the copy: "
            "`unpaired=False`, with `pairs` of the other layers."
        )
    heads = [group * source_per_group + head for group in range(groups) for head in range(per_group)]
    indices = {id(query.kernel): (head_axis, heads)}
    if query.bias is not None:
        indices[id(query.bias)] = 0, heads
    for part in parts.values():
        # The projection of the concatenated heads, whose inputs are the outputs of the queries.
        if part.name.endswith("output") and len(part.kernel.shape) == 3:
            indices[id(part.kernel)] = _axes(part, outputs=False)[0], heads
    return indices


def _axes(layer, outputs):
    """Return the axes `(heads, size of a head)` of the kernel, which are the last two of the outputs or inputs."""
    inputs, kernel, output = layer.equation.replace("->", ",").split(",")
    letters = (output if outputs else inputs)[-2:]
    return kernel.index(letters[0]), kernel.index(letters[1])
