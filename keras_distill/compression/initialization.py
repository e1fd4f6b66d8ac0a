"""Initialization of a student from its teacher's weights."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
from keras import ops

from keras_distill.compression.attention_heads import head_indices
from keras_distill.compression.layer_matching import matching_layers
from keras_distill.compression.recurrent_gates import gate_indices
from keras_distill.models.layers import direct_weights, find_layer, walk_layers
from keras_distill.utils.arguments import check_model


class CopiedWeight(NamedTuple):
    """Record of one student weight in `copy_weights`.

    Attributes:
        student: Path of the student's layer and name of the weight, e.g. "block_0/kernel".
        shape: Shape of the student's weight.
        teacher: Path of the teacher's layer and name of the source weight; None if nothing was copied.
        teacher_shape: Shape of the source weight, larger than `shape` if a slice was copied; None if nothing was
            copied.
    """

    student: str
    shape: tuple[int, ...]
    teacher: str | None
    teacher_shape: tuple[int, ...] | None

    @property
    def status(self) -> str:
        """Status in one word: "copied", "sliced" or "skipped"."""
        if self.teacher is None:
            return "skipped"
        return "copied" if self.shape == self.teacher_shape else "sliced"

    def __str__(self):
        if self.teacher is None:
            return f"{self.status:7} {self.student} {self.shape}"
        whole = "" if self.shape == self.teacher_shape else f" of {self.teacher_shape}"
        return f"{self.status:7} {self.student} {self.shape}{whole} from {self.teacher}"


def copy_weights(
    student: keras.Model,
    teacher: keras.Model,
    pairs: Sequence[tuple[str, str]] = (),
    unpaired: bool = True,
    units: Mapping[str, Sequence[Sequence[int] | None]] | None = None,
) -> list[CopiedWeight]:
    """Initialize layers of a student from layers of its teacher.

    A narrower student gets the first units of each axis, `weight[:m, :n]`, or those of `units`. All layers use the same
    units, so the copied part of the teacher still fits together; how useful the first units are is a matter of chance.
    `shrink(importance=, copy=True)` chooses them. Statistics of layers such
    as BatchNormalization are copied, too. In grouped-query attention, a student with fewer query heads per key-value
    head gets the first ones of each group; in LSTM and GRU layers, a student gets the first units of each gate.

    Args:
        student: A built `keras.Model`. Its weights are changed.
        teacher: A built `keras.Model`.
        pairs: `(student path, teacher path)` of layers, as the functions of `mapping` return them. Layers nested inside
            are copied as well. Defaults to none.
        unpaired: Whether to initialize layers without a pair, too: from the teacher's layer of the same path, if its
            weights have the same number of axes and no axis is shorter. Names that Keras made up are compared without
            their running numbers: "gpt2_backbone_1" is "gpt2_backbone". Warns if weights are left. Defaults to True.
        units: Units that are copied rather than the first ones: `{path of a student weight: (indices of axis 0, indices
            of axis 1, ...)}`, with paths such as "block_0/kernel" and indices into the teacher's axis, one for each
            entry of the student's; None in place of indices stands for the first ones. Units that one layer makes and
            others read must be given for all of them: the last axis of the kernel, the bias, and the first axis of the
            next kernel. Defaults to none.

    Returns:
        List of `CopiedWeight`, one per weight of the student, in the order of its layers.

    Raises:
        ValueError: If a layer of a pair does not exist or if its weights do not fit: another number of weights or axes,
            or an axis of the student longer than the teacher's; if heads with rotary position embeddings differ in
            size; if the student has more query heads per key-value head; or if `units` names a weight that is not
            copied, or has other numbers of axes or indices than this weight. No weight is changed then.

    Example:

    >>> for row in copy_weights(student, teacher, [("block_2", "block_4")], unpaired=False):
    ...     if row.status != "skipped":
    ...         print(row.status, row.student)
    sliced block_2/kernel
    sliced block_2/bias

    Reference:
        Sanh et al. 2019, https://arxiv.org/abs/1910.01108 (every second layer of BERT)
    """
    check_model(student, "student")
    check_model(teacher, "teacher")
    sources = {}
    for student_path, teacher_path in pairs:
        student_layer, teacher_layer = find_layer(student, student_path), find_layer(teacher, teacher_path)
        sources |= _paired_sources(student_layer, teacher_layer, student_path, teacher_path)
    counterparts = matching_layers(student, teacher) if unpaired else {}
    rows, copies = [], {}
    # Several paths may lead to one weight. A dictionary, which keeps the order of the rows.
    visited = {}
    for path, layer in walk_layers(student):
        for weight in direct_weights(layer):
            if id(weight) in visited:
                continue
            visited[id(weight)] = None
            source = sources.get(id(weight))
            if source is None and id(layer) in counterparts:
                source = _source_of_same_name(weight, *counterparts[id(layer)])
            name, teacher_shape = (None, None) if source is None else source[:2]
            rows.append(CopiedWeight(f"{path}/{weight.name}", tuple(weight.shape), name, teacher_shape))
            if source is not None:
                copies[id(weight)] = weight, source[2]

    def source_of(weight):
        return copies.get(id(weight), (None, None))[1]

    grouped = head_indices(student, source_of) | gate_indices(student, source_of)
    chosen = _checked_units(units or {}, rows)
    for row, key in zip(rows, visited):
        if key in copies:
            weight, source = copies[key]
            indices = dict([grouped[key]] if key in grouped else []) | chosen.get(row.student, {})
            weight.assign(ops.cast(_select(source, indices, weight.shape), weight.dtype))
    if unpaired:
        _warn_of_skipped(student, teacher, [row.student for row in rows if row.teacher is None])
    return rows


def _select(source, indices, shape):
    """Return the part of a weight with the given indices of some axes, and the first ones of the others."""
    for axis, size in enumerate(shape):
        source = ops.take(source, indices.get(axis, range(size)), axis=axis)
    return source


def _checked_units(units, rows):
    """Return `{path of a weight: {axis: indices}}`."""
    copied = {row.student: row for row in rows if row.teacher is not None}
    checked = {}
    for path, axes in units.items():
        if path not in copied:
            close = difflib.get_close_matches(path, copied, cutoff=0.5)
            raise ValueError(f"`units` names '{path}', which is no weight that is copied. Closest: {close}.")
        shape, teacher_shape = copied[path].shape, copied[path].teacher_shape
        checked[path] = {axis: list(indices) for axis, indices in enumerate(axes) if indices is not None}
        fits = len(axes) == len(shape) and all(
            len(indices) == shape[axis] and all(0 <= index < teacher_shape[axis] for index in indices)
            for axis, indices in checked[path].items()
        )
        if not fits:
            raise ValueError(
                f"`units` must have, for each axis of '{path}' {shape}, None or as many indices as its size, from 0 to "
                f"less than that of the teacher's {teacher_shape}. Received: {axes!r}"
            )
    return checked


def _warn_of_skipped(student, teacher, skipped):
    if skipped:
        names = ", ".join(skipped[:10]) + (", ..." if len(skipped) > 10 else "")
        warnings.warn(
            f"{len(skipped)} weights of '{student.name}' keep their values, because '{teacher.name}' has no layer of "
            f"the same path whose weights fit: {names}. Pass `pairs` of layers for them, or `unpaired=False`.",
            stacklevel=3,
        )


def _paired_sources(student_layer, teacher_layer, student_path, teacher_path):
    """Return `{id(student weight): (name, shape, weight of the teacher)}` for two layers and all layers inside."""
    student_weights, teacher_weights = _nested_weights(student_layer), _nested_weights(teacher_layer)
    fits = len(student_weights) == len(teacher_weights) and all(
        _fits(weight, source) for (_, weight), (_, source) in zip(student_weights, teacher_weights)
    )
    if not fits:
        raise ValueError(
            f"'{student_path}' of the student cannot be initialized from '{teacher_path}' of the teacher: its weights "
            f"are {_names_and_shapes(student_weights)}, those of the teacher {_names_and_shapes(teacher_weights)}. "
            "Both need the same number of weights and axes, and no axis of the student may be longer."
        )
    return {
        id(weight): (f"{teacher_path}{path}/{source.name}", tuple(source.shape), source)
        for (_, weight), (path, source) in zip(student_weights, teacher_weights)
    }


def _source_of_same_name(weight, path, layer):
    """Return `(name, shape, weight)` of the weight of the same name in a teacher layer; None if it does not fit."""
    for source in direct_weights(layer):
        if source.name == weight.name and _fits(weight, source):
            return f"{path}/{source.name}", tuple(source.shape), source
    return None


def _fits(weight, source):
    return len(weight.shape) == len(source.shape) and all(a <= b for a, b in zip(weight.shape, source.shape))


def _nested_weights(layer):
    """Return `[(path inside of the layer, weight)]` of a layer and all layers inside."""
    return [
        (path, weight) for path, inner in [("", layer), *walk_layers(layer, "/")] for weight in direct_weights(inner)
    ]


def _names_and_shapes(weights):
    return [f"{weight.name} {tuple(weight.shape)}" for _, weight in weights]
