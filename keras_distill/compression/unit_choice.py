"""Units that a narrower student gets from its teacher, chosen by their importance."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from keras_distill.compression.layer_matching import matching_layers
from keras_distill.compression.unit_axes import summed_axes
from keras_distill.compression.unit_groups import unit_groups
from keras_distill.models.layers import direct_weights, walk_layers
from keras_distill.utils.ranking import largest


def choose_units(
    model: keras.Model,
    narrower: keras.Model,
    factor: float,
    scale: Callable[[keras.Model], keras.Model],
    scores: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
) -> dict[str, tuple[list[int] | None, ...]]:
    """Return the most important units of each axis that got shorter, as `copy_weights` takes them.

    Axes with the same units get the same choice, such as the channels of a residual stream everywhere, and the units of
    one feed-forward network. The importance of a unit is the sum over the tensors in which it is read. In grouped-query
    attention, key-value heads are chosen by the sum over their query heads, then the best query heads of each.

    Args:
        model: Model of the teacher's widths, with the blocks that are kept.
        narrower: The student.
        factor: Factor of the widths, in (0, 1).
        scale: Function that scales models inside that have their own constructors.
        scores: Importance of the units that a layer of the teacher reads, by its path.
        pairs: `(path in the model, path in the teacher)` of layers that are called otherwise in the teacher.

    Returns:
        `{path of a weight in the student: indices for each axis, or None}`.
    """
    read = _scores_of_axes(model, scores, dict(pairs))
    chosen = {}
    for axes in unit_groups(model, narrower, factor, scale):
        found = [read[axis.weight, axis.number] for axis in axes if (axis.weight, axis.number) in read]
        if found and len({len(each) for each in found}) == 1:
            indices = _choose(sum(found), {axis.size: axis.new_size for axis in axes})
            chosen |= {(axis.weight, axis.number): indices[axis.size] for axis in axes}
    counterparts, units, visited = matching_layers(narrower, model), {}, set()
    for path, layer in walk_layers(narrower):
        wide = direct_weights(counterparts[id(layer)][1]) if id(layer) in counterparts else []
        for weight, source in zip(direct_weights(layer), wide):
            indices = tuple(chosen.get((id(source), axis)) for axis in range(len(weight.shape)))
            # `copy_weights` knows the first of several paths of a weight.
            if id(weight) not in visited and any(each is not None for each in indices):
                units[f"{path}/{weight.name}"] = indices
            visited.add(id(weight))
    return units


def _scores_of_axes(model, scores, teacher_paths):
    """Return `{(id of a kernel, axis): importance of each of its units}`."""
    found = {}
    for path, layer in walk_layers(model):
        values = scores.get(_teacher_path(path, teacher_paths))
        if values is None:
            continue
        for place, axis in enumerate(summed_axes(layer)):
            others = tuple(other for other in range(values.ndim) if other != place)
            found[id(layer.kernel), axis] = np.sqrt(np.sum(np.square(values), axis=others))
    return found


def _teacher_path(path, teacher_paths):
    parts = path.split("/")
    for count in range(len(parts), 0, -1):
        start = "/".join(parts[:count])
        if start in teacher_paths:
            return "/".join([teacher_paths[start], *parts[count:]])
    return path


def _choose(scores, sizes):
    """Return `{size: indices}` for the sizes of some axes, given as `{size: new size}`.

    There are two sizes for query heads and key-value heads.
    """
    small, large = min(sizes), len(scores)
    grouped = scores.reshape(small, -1)
    kept = largest(grouped.sum(axis=1), sizes[small])
    per_group = sizes[large] // sizes[small]
    members = [group * grouped.shape[1] + member for group in kept for member in largest(grouped[group], per_group)]
    return {small: kept, large: members}
