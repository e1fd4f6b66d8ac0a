"""A student that starts from its teacher's weights."""

from typing import NamedTuple

from keras import ops

from keras_distill.models.taps import find_layer, walk_layers


class Copied(NamedTuple):
    """What became of one weight of a student.

    Attributes:
        student: Path of the student's layer, and the weight's name.
        shape: The weight's shape.
        teacher: The same of the weight it was copied from; None if it was left as it was.
        teacher_shape: Its shape, larger where a slice was copied; None likewise.
    """

    student: str
    shape: tuple
    teacher: str | None
    teacher_shape: tuple | None

    @property
    def how(self):
        """In a word: "copied", "sliced" or "left"."""
        if self.teacher is None:
            return "left"
        return "copied" if self.shape == self.teacher_shape else "sliced"

    def __str__(self):
        if self.teacher is None:
            return f"left    {self.student} {self.shape}"
        whole = "" if self.shape == self.teacher_shape else f" of {self.teacher_shape}"
        return f"{self.how:7} {self.student} {self.shape}{whole} from {self.teacher}"


def copy_weights(student, teacher, pairs=(), others=True):
    """Copies layers of a teacher into a student, which then trains from there.

    ```python
    blocks = mapping.uniform(mapping.layers(student, "block_*"), mapping.layers(teacher, "block_*"))
    print(*copy_weights(student, teacher, blocks), sep="\\n")
    ```

    Where the student is narrower it gets the first units of each axis, `weight[:m, :n]`. These are the same units in
    all layers, so that what is left of the teacher still fits together; how much of its knowledge they hold is a matter
    of chance. What a layer knows of its inputs' statistics (BatchNormalization) comes along.

    Args:
        student: A built `keras.Model`; its weights are changed.
        teacher: A built `keras.Model`.
        pairs: List of `(student path, teacher path)` of layers, as the functions of `mapping` give them. The layers
            inside are copied with them.
        others: Whether layers that stand in no pair are copied from the teacher's of the same path, if that has
            weights of the same number of axes, none shorter. Defaults to True.

    Returns:
        List of `Copied`, one for each of the student's weights in its order.

    Raises:
        ValueError: If a layer of a pair is not there, or the two do not fit: other weights, other numbers of axes, or a
            student's axis longer than the teacher's. Nothing is copied then.

    Reference:
        Sanh et al. 2019, https://arxiv.org/abs/1910.01108 (every second layer of BERT)
    """
    sources = {}
    for ours, theirs in pairs:
        sources |= _paired(find_layer(student, ours), find_layer(teacher, theirs), ours, theirs)
    inner = dict(walk_layers(teacher))
    rows, copies = [], []
    seen = set()
    for path, layer in walk_layers(student):
        for weight in _own_weights(layer):
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            name = f"{path}/{weight.name}"
            source = sources.get(id(weight))
            if source is None and others and path in inner:
                source = _namesake(weight, inner[path], path)
            rows.append(Copied(name, tuple(weight.shape), *((None, None) if source is None else source[:2])))
            if source is not None:
                copies.append((weight, source[2]))
    for weight, source in copies:
        weight.assign(ops.cast(source[tuple(slice(size) for size in weight.shape)], weight.dtype))
    return rows


def _paired(ours, theirs, our_path, their_path):
    """`{id(weight): (teacher's name, shape, weight)}` of two layers with all that is inside."""
    own = [(path, weight) for path, layer in [("", ours), *walk_layers(ours, "/")] for weight in _own_weights(layer)]
    other = [
        (path, weight) for path, layer in [("", theirs), *walk_layers(theirs, "/")] for weight in _own_weights(layer)
    ]
    unlike = len(own) != len(other) or any(not _fits(a, b) for (_, a), (_, b) in zip(own, other))
    if unlike:
        described = [[f"{weight.name} {tuple(weight.shape)}" for _, weight in side] for side in (own, other)]
        raise ValueError(
            f"'{our_path}' of the student cannot start from '{their_path}' of the teacher. Its weights are "
            f"{described[0]}, those of the teacher {described[1]}; each must have as many axes, none longer."
        )
    return {
        id(weight): (f"{their_path}{path}/{source.name}", tuple(source.shape), source)
        for (_, weight), (path, source) in zip(own, other)
    }


def _namesake(weight, layer, path):
    """The weight of the same name in a layer of the teacher, if it fits."""
    for source in _own_weights(layer):
        if source.name == weight.name and _fits(weight, source):
            return f"{path}/{source.name}", tuple(source.shape), source
    return None


def _fits(weight, source):
    return len(weight.shape) == len(source.shape) and all(a <= b for a, b in zip(weight.shape, source.shape))


def _own_weights(layer):
    """Weights of a layer itself, without those of layers inside, and without random states."""
    inside = {id(weight) for _, child in walk_layers(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inside]
