"""Which layer of the student learns from which layer of the teacher.

```python
student_layers = mapping.layers(student, "block_*")  # ["backbone/block_1", ...], in the model's order
for s, t in mapping.uniform(student_layers, mapping.layers(teacher, "block_*")):
    terms.append(Term(HiddenState(), s, t, head="auto"))
```

Paths are those that `Term` reads, and may be extended to a layer inside: `f"{s}/attention/query"`.
"""

import re

from keras_distill.models.taps import walk_layers


def layers(model, pattern):
    """Paths of the layers whose path, or an ending of it, reads like the pattern.

    Args:
        model: A `keras.Model`.
        pattern: Such as "block_*" or "encoder/layer_*/output"; a `*` stands for any letters within one name.

    Returns:
        A list of paths in the model's order, each layer once.

    Raises:
        ValueError: If there is none.
    """
    every = list(walk_layers(model))
    found = {id(layer): path for path, layer in reversed(every) if _starred(path, pattern) is not None}
    if not found:
        raise ValueError(
            f"No layer of '{model.name}' reads like '{pattern}'. There: {[path for path, _ in every][:10]}. "
            "`keras-distill inspect` lists all."
        )
    return list(reversed(found.values()))


def uniform(student_layers, teacher_layers):
    """Every student layer with a teacher layer, spread evenly: layer i of m with layer i * n / m of n, counted from 1.

    The student's last layer so learns from the teacher's last one: 6 layers learn from 2, 4, ... 12 of 12.

    Args:
        student_layers: List of paths, m of them.
        teacher_layers: List of paths, n of them.

    Returns:
        List of pairs `(student path, teacher path)`, as of all functions here.

    Raises:
        ValueError: If n is no multiple of m.

    Reference:
        Jiao et al., EMNLP 2020, https://arxiv.org/abs/1909.10351
    """
    students, teachers = _counts(student_layers, teacher_layers)
    if teachers % students:
        raise ValueError(
            f"{students} student layers cannot be spread evenly over {teachers} teacher layers. Choose with "
            "`mapping.last`, `mapping.every` or `mapping.by_hand`."
        )
    return every(student_layers, teacher_layers, teachers // students)


def last(student_layers, teacher_layers, count=None):
    """The last layers of both, in order.

    Args:
        student_layers: List of paths.
        teacher_layers: List of paths, as many or more.
        count: How many; defaults to all of the student's. 1 pairs only the two last layers, as MiniLM does.

    Raises:
        ValueError: If the models do not have that many layers.

    Reference:
        Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355 (PKD-Last)
    """
    students, teachers = _counts(student_layers, teacher_layers)
    count = students if count is None else count
    if not 1 <= count <= min(students, teachers):
        raise ValueError(
            f"There are no {count} last layers in both models: the student has {students}, the teacher {teachers}."
        )
    return list(zip(student_layers[-count:], teacher_layers[-count:]))


def every(student_layers, teacher_layers, step):
    """Every student layer with every k-th teacher layer: layer i with layer i * k, counted from 1.

    Args:
        student_layers: List of paths.
        teacher_layers: List of paths, `step` times as many or more; those behind are left out.
        step: k.

    Raises:
        ValueError: If the teacher is not deep enough.

    Reference:
        Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355 (PKD-Skip)
    """
    students, teachers = _counts(student_layers, teacher_layers)
    if step < 1:
        raise ValueError(f"`step` must be 1 or more. Received: {step!r}")
    if students * step > teachers:
        raise ValueError(
            f"{students} student layers with one in {step} teacher layers ask for {students * step}, but there are "
            f"{teachers}. Take a smaller step or fewer student layers."
        )
    return list(zip(student_layers, teacher_layers[step - 1 :: step]))


def by_name(student, teacher, pattern, teacher_pattern=None):
    """Layers whose names agree in what the `*` of a pattern stands for.

    Args:
        student: The student model.
        teacher: The teacher model.
        pattern: As for `layers`, such as "stage_*/output".
        teacher_pattern: That of the teacher, with as many `*`; defaults to the same.

    Returns:
        List of pairs in the student's order; layers without a counterpart are left out.

    Raises:
        ValueError: If no layer of one has a counterpart in the other, or several have the same.
    """
    teacher_pattern = teacher_pattern or pattern
    students, teachers = (
        [(_starred(path, p), path) for path in layers(model, p)]
        for model, p in ((student, pattern), (teacher, teacher_pattern))
    )
    for model, found in ((student, students), (teacher, teachers)):
        names = [name for name, _ in found]
        twice = [path for name, path in found if names.count(name) > 1]
        if twice:
            raise ValueError(f"Several layers of '{model.name}' read alike: {twice}. Write more of the path.")
    counterparts = dict(teachers)
    pairs = [(path, counterparts[name]) for name, path in students if name in counterparts]
    if not pairs:
        raise ValueError(
            f"No layer of '{student.name}' has a counterpart in '{teacher.name}': "
            f"{[path for _, path in students]} against {[path for _, path in teachers]}."
        )
    return pairs


def by_hand(student_layers, teacher_layers, pairs):
    """The pairs of layers that you name by their numbers, counted from 0 as in Python; -1 is the last.

    Args:
        student_layers: List of paths.
        teacher_layers: List of paths.
        pairs: Such as `[(0, 1), (1, 3), (-1, -1)]`, student first; or `{0: 1, 1: 3}`.

    Raises:
        ValueError: If there is no such layer.
    """
    students, teachers = _counts(student_layers, teacher_layers)
    pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
    wrong = [pair for pair in pairs if not (-students <= pair[0] < students and -teachers <= pair[1] < teachers)]
    if wrong or not pairs:
        raise ValueError(
            f"There are {students} student layers, numbered from 0, and {teachers} teacher layers. "
            f"Received: pairs {wrong or pairs}."
        )
    return [(student_layers[s], teacher_layers[t]) for s, t in pairs]


def _counts(student_layers, teacher_layers):
    for side, paths in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
        if isinstance(paths, str) or not paths or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"`{side}` must be a list of paths, such as `mapping.layers` gives. Received: {paths!r}")
    return len(student_layers), len(teacher_layers)


def _starred(path, pattern):
    """What the stars of the pattern stand for in the path, or None if it does not read like it."""
    expression = r"(?:.*/)?" + r"([^/]*)".join(map(re.escape, pattern.split("*")))
    match = re.fullmatch(expression, path)
    return None if match is None else match.groups()
