"""Layer mappings: pairs of student layers and teacher layers.

Make one term per pair. A path may be extended to a layer inside, as in `f"{path}/attention/query"`.

Example:
>>> student_layers = mapping.layers(student, "block_*")
>>> teacher_layers = mapping.layers(teacher, "block_*")
>>> pairs = mapping.uniform(student_layers, teacher_layers)
>>> terms = [Term(SimilarityPreserving(), student=s, teacher=t, weight=3000.0) for s, t in pairs]
"""

import math
import re
from collections.abc import Mapping, Sequence

import keras

from keras_distill.models.layers import walk_layers
from keras_distill.utils.arguments import check_integer
from keras_distill.utils.ranking import largest

__all__ = ["by_hand", "by_importance", "by_name", "every", "last", "layers", "uniform"]


def layers(model: keras.Model, pattern: str) -> list[str]:
    """Return the paths of the layers that match a pattern.

    Args:
        model: A `keras.Model`.
        pattern: Path or end of a path, such as "block_*" or "encoder/layer_*/output". A `*` matches any characters
            except `/`.

    Returns:
        List of paths in the order of the model, each layer once.

    Raises:
        ValueError: If no layer matches.

    Example:
    >>> mapping.layers(student, "block_*")
    ['block_1', 'block_2']
    """
    named_layers = list(walk_layers(model))
    # Reversed, so that of several paths of one shared layer the first is kept.
    matches = {id(layer): path for path, layer in reversed(named_layers) if _match(path, pattern) is not None}
    if not matches:
        raise ValueError(
            f"No layer of '{model.name}' matches '{pattern}'. Its layers are, up to 10 of them: "
            f"{[path for path, _ in named_layers][:10]}. `keras-distill inspect` lists all."
        )
    return list(reversed(matches.values()))


def uniform(student_layers: Sequence[str], teacher_layers: Sequence[str]) -> list[tuple[str, str]]:
    """Pair student layers with evenly spaced teacher layers: layer i of m with layer i * n / m of n, counted from 1.

    The last layers are paired with each other: 6 student layers are paired with the layers 2, 4, ... 12 of 12. The
    first teacher layer has no pair if n > m. For `copy_weights` this leaves out the block that reads the embeddings, on
    which language models depend: `by_hand` with both ends in its pairs, such as `{0: 0, 1: 2, 2: 3}`, keeps it.

    Args:
        student_layers: List of m paths.
        teacher_layers: List of n paths, n a multiple of m.

    Returns:
        List of pairs `(student path, teacher path)`.

    Raises:
        ValueError: If n is not a multiple of m.

    Reference:
        Jiao et al., EMNLP Findings 2020, https://arxiv.org/abs/1909.10351

    Example:
    >>> uniform(["s1", "s2"], ["t1", "t2", "t3", "t4"])
    [('s1', 't2'), ('s2', 't4')]
    """
    students, teachers = _counts(student_layers, teacher_layers)
    if teachers % students:
        raise ValueError(
            f"The number of teacher layers must be a multiple of the number of student layers. Received: {students} "
            f"student layers, {teachers} teacher layers. Use `mapping.last`, `mapping.every` or `mapping.by_hand`."
        )
    return every(student_layers, teacher_layers, teachers // students)


def last(
    student_layers: Sequence[str], teacher_layers: Sequence[str], count: int | None = None
) -> list[tuple[str, str]]:
    """Pair the last layers of student and teacher, in order.

    Args:
        student_layers: List of paths.
        teacher_layers: List of paths.
        count: Number of pairs, an integer >= 1. 1 pairs only the last layers, as MiniLM does. Defaults to None: the
            number of student layers.

    Returns:
        List of pairs `(student path, teacher path)`.

    Raises:
        ValueError: If `count` is not an integer >= 1 or None, or student or teacher has fewer layers.

    Reference:
        Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355 (PKD-Last)

    Example:
    >>> last(["s1", "s2"], ["t1", "t2", "t3", "t4"])
    [('s1', 't3'), ('s2', 't4')]
    """
    students, teachers = _counts(student_layers, teacher_layers)
    count = check_integer(students if count is None else count, "count")
    if count > min(students, teachers):
        raise ValueError(
            f"Student and teacher must have at least {count} layers each. Received: {students} student layers, "
            f"{teachers} teacher layers"
        )
    return list(zip(student_layers[-count:], teacher_layers[-count:]))


def every(student_layers: Sequence[str], teacher_layers: Sequence[str], step: int) -> list[tuple[str, str]]:
    """Pair student layers with every k-th teacher layer: layer i with layer i * k, counted from 1.

    Args:
        student_layers: List of paths.
        teacher_layers: List of paths, at least `step` times as many; further ones are not used.
        step: k, an integer >= 1.

    Returns:
        List of pairs `(student path, teacher path)`.

    Raises:
        ValueError: If `step` is not an integer >= 1, or the teacher has too few layers.

    Reference:
        Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355 (PKD-Skip)

    Example:
    >>> every(["s1", "s2"], ["t1", "t2", "t3", "t4", "t5"], step=2)
    [('s1', 't2'), ('s2', 't4')]
    """
    students, teachers = _counts(student_layers, teacher_layers)
    step = check_integer(step, "step")
    if students * step > teachers:
        raise ValueError(
            f"{students} student layers with step {step} need {students * step} teacher layers. Received: {teachers} "
            "teacher layers. Use a smaller step or fewer student layers."
        )
    return list(zip(student_layers, teacher_layers[step - 1 :: step]))


def by_name(
    student: keras.Model, teacher: keras.Model, pattern: str, teacher_pattern: str | None = None
) -> list[tuple[str, str]]:
    """Pair layers whose paths have the same text in place of each `*` of a pattern.

    Args:
        student: The student.
        teacher: The teacher.
        pattern: Pattern as for `layers`, such as "stage_*/output".
        teacher_pattern: Pattern of the teacher's paths, with as many `*`. Defaults to None: `pattern`.

    Returns:
        List of pairs `(student path, teacher path)` in the student's order, without layers that have no counterpart.

    Raises:
        ValueError: If no layer has a counterpart, or several layers of one model have the same text in place of each
            `*`.

    Example:
    >>> mapping.by_name(student, teacher, "block_*")
    [('block_1', 'block_1'), ('block_2', 'block_2')]
    """
    teacher_pattern = teacher_pattern or pattern
    student_layers = _matches(student, pattern)
    counterparts = dict(_matches(teacher, teacher_pattern))
    pairs = [(path, counterparts[key]) for key, path in student_layers if key in counterparts]
    if not pairs:
        raise ValueError(
            f"No layer of '{student.name}' has a counterpart in '{teacher.name}'. Received: student layers "
            f"{[path for _, path in student_layers]}, teacher layers {list(counterparts.values())}"
        )
    return pairs


def by_hand(
    student_layers: Sequence[str],
    teacher_layers: Sequence[str],
    pairs: Sequence[tuple[int, int]] | Mapping[int, int],
) -> list[tuple[str, str]]:
    """Pair layers by their indices, counted from 0; -1 is the last layer.

    Args:
        student_layers: List of paths.
        teacher_layers: List of paths.
        pairs: Pairs `(student index, teacher index)`, such as `[(0, 1), (1, 3), (-1, -1)]`, or a dictionary `{0: 1, 1:
            3}`.

    Returns:
        List of pairs `(student path, teacher path)`.

    Raises:
        ValueError: If `pairs` is empty or contains an index out of range.

    Example:
    >>> by_hand(["s1", "s2"], ["t1", "t2", "t3"], [(0, 1), (-1, -1)])
    [('s1', 't2'), ('s2', 't3')]
    """
    students, teachers = _counts(student_layers, teacher_layers)
    pairs = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    invalid = [pair for pair in pairs if not (-students <= pair[0] < students and -teachers <= pair[1] < teachers)]
    if invalid or not pairs:
        raise ValueError(
            f"`pairs` must contain indices of {students} student layers and {teachers} teacher layers, counted from 0. "
            f"Received: pairs {invalid or pairs}"
        )
    return [(student_layers[s], teacher_layers[t]) for s, t in pairs]


def by_importance(
    student_layers: Sequence[str], teacher_layers: Sequence[str], scores: Sequence[float] | Mapping[str, float]
) -> list[tuple[str, str]]:
    """Pair the m student layers with the m teacher layers of the largest scores, in order.

    Args:
        student_layers: List of m paths.
        teacher_layers: List of n paths, n >= m.
        scores: Score of each teacher layer: a list of n numbers, or a dictionary by path, such as the `blocks` of
            `compression.measure_importance`. Of equal scores, the first layers are taken.

    Returns:
        List of pairs `(student path, teacher path)`.

    Raises:
        ValueError: If the teacher has fewer layers than the student, or if a score is missing or NaN.

    Reference:
        Men et al. 2024, https://arxiv.org/abs/2403.03853 (ShortGPT)

    Example:
    >>> by_importance(["s1", "s2"], ["t1", "t2", "t3"], [0.4, 0.1, 0.2])
    [('s1', 't1'), ('s2', 't3')]
    """
    students, teachers = _counts(student_layers, teacher_layers)
    if students > teachers:
        raise ValueError(
            f"The teacher must have at least as many layers as the student. Received: {students} student layers, "
            f"{teachers} teacher layers"
        )
    if isinstance(scores, Mapping):
        missing = [path for path in teacher_layers if path not in scores]
        if missing:
            raise ValueError(
                f"`scores` has no entry for the teacher layers {missing[:10]}. Its entries are, up to 10 of them: "
                f"{list(scores)[:10]}."
            )
        scores = [scores[path] for path in teacher_layers]
    if len(scores) != teachers or any(math.isnan(score) for score in scores):
        raise ValueError(f"`scores` must be {teachers} numbers, one per teacher layer. Received: {scores!r}")
    return list(zip(student_layers, (teacher_layers[index] for index in largest(scores, students))))


def _counts(student_layers, teacher_layers):
    for name, paths in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
        if isinstance(paths, str) or not paths or not all(isinstance(path, str) for path in paths):
            raise ValueError(
                f"`{name}` must be a list of layer paths, such as `mapping.layers(model, 'block_*')`. "
                f"Received: {paths!r}"
            )
    return len(student_layers), len(teacher_layers)


def _matches(model, pattern):
    """Return `[(texts in place of each star, path)]` of the layers that match a pattern; raise if texts repeat."""
    matches = [(_match(path, pattern), path) for path in layers(model, pattern)]
    keys = [key for key, _ in matches]
    repeated = [path for key, path in matches if keys.count(key) > 1]
    if repeated:
        raise ValueError(
            f"Several layers of '{model.name}' match '{pattern}' with the same text in place of each `*`: {repeated}. "
            "Make the pattern longer by the names of the models or layers around them."
        )
    return matches


def _match(path, pattern):
    """Return the texts in place of each star of a pattern, or None if the path does not match."""
    expression = r"(?:.*/)?" + r"([^/]*)".join(map(re.escape, pattern.split("*")))
    match = re.fullmatch(expression, path)
    return None if match is None else match.groups()
