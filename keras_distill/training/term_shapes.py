"""Checks of a term's activations: the head between two shapes, and messages where none fits."""

from typing import Any

import keras

from keras_distill.heads import Convolution, Head, Projection, Resize
from keras_distill.losses import DistillationLoss
from keras_distill.models.specs import Traced, check_activation
from keras_distill.models.taps import tap_names
from keras_distill.training.term_activations import each_of

AUTO = "auto"


def compared_shapes(term: Any, student: tuple, teacher: tuple) -> tuple[tuple, tuple]:
    """Return the shapes of two activations, for a term with `words` those of the logits of the first words.

    Args:
        term: The `Term`.
        student: Shape of the student's activation, or a tuple of shapes.
        teacher: Shape of the teacher's activation, or a tuple of shapes.

    Raises:
        ValueError: If a vocabulary has fewer words.
    """
    if term.words is None:
        return student, teacher
    sizes = [shape[-1] for shape in (student, teacher) if shape[-1] is not None]
    if min(sizes, default=term.words) < term.words:
        raise ValueError(
            f"Term '{term.name}' compares the first {term.words} classes, but student '{term.student}' has "
            f"{student[-1]} and teacher '{term.teacher}' has {teacher[-1]}. Pass words={min(sizes)} or less."
        )
    return (*student[:-1], term.words), (*teacher[:-1], term.words)


def automatic_head(term: Any, loss: DistillationLoss, student: tuple, teacher: tuple) -> Head | None:
    """Return the head that `head="auto"` stands for; None if the loss can compare the shapes, or takes logits.

    Args:
        term: The `Term`, for the error.
        loss: The loss of the term.
        student: Shape of the student's activation, batch axis included, or a tuple of shapes.
        teacher: Shape of the teacher's activation after `teacher_head`, or a tuple of shapes.

    Raises:
        ValueError: If no head is known for features of these shapes.
    """
    if loss.comparable(student, teacher):
        return None
    head = _head_between(loss, student, teacher)
    if head is None and not loss.logits:
        raise ValueError(
            f"Term '{term.name}' has no default head from student '{term.student}' of shape {student} to "
            f"teacher '{term.teacher}' of shape {teacher}. Pass one as `head=`, or tap other layers."
        )
    return head


def _head_between(loss, student, teacher):
    if isinstance(student[0], tuple) or len(student) != len(teacher):
        return None
    axes, channels_agree = len(student) - 2, student[-1] == teacher[-1]
    lengths_agree = all(None in pair or len(set(pair)) == 1 for pair in zip(student[1:-1], teacher[1:-1]))
    if axes in (1, 2, 3) and channels_agree:
        return Resize()
    # A trained map of logits would give the classes another meaning.
    if loss.logits:
        return None
    if axes == 0 or axes == 1 and lengths_agree:
        return Projection()
    return Convolution() if axes in (1, 2, 3) else None


def check_activations(term: Any, loss: DistillationLoss, students: Any, teachers: Any) -> None:
    """Raise ValueError if a tapped activation is not one that the loss takes, such as probabilities for logits.

    Args:
        term: The `Term`.
        loss: Its loss.
        students: `Spec` of the student's activation, or a tuple of several.
        teachers: `Spec` of the teacher's activation, or a tuple of several.
    """
    tapped = [("student", *pair) for pair in zip(tap_names(term.student), each_of(students))]
    tapped += [("teacher", *pair) for pair in zip(tap_names(term.teacher), each_of(teachers))]
    activation = loss.activation if loss.logits else None
    better = "BinaryKD, which compares independent binary logits" if activation == "Softmax" else "KLDivergence"
    advice = f"Use {better}, or tap another layer."
    for side, tap, spec in tapped:
        check_activation(spec, f"Term '{term.name}'", f"{side} '{tap}'", tap, activation, advice)


def check_rank(term: Any, loss: DistillationLoss, student: tuple, teacher: tuple) -> None:
    """Raise ValueError for compared activations of another rank than the loss takes.

    Args:
        term: The `Term`.
        loss: Its loss.
        student: Shape of the student's activation after the head, or a tuple of shapes.
        teacher: Shape of the teacher's activation after `teacher_head`, or a tuple of shapes.
    """
    sides = ("student", term.student, term.head, student), ("teacher", term.teacher, term.teacher_head, teacher)
    compared = [(name, tap, head, one) for name, tap, head, shape in sides for one in _each_shape(shape)]
    if loss.rank is None or all(len(shape) == loss.rank for *_, shape in compared):
        return
    received = []
    for name, taps, head, shape in sides:
        # A head may map several activations to one.
        pairs = [(taps, shape)] if isinstance(taps, str) or not isinstance(shape[0], tuple) else zip(taps, shape)
        after = "" if head is None or head == AUTO else " after its head"
        received += [f"{name} '{tap}' of shape {one}{after}" for tap, one in pairs]
    raise ValueError(
        f"{type(loss).__name__} compares activations of rank {loss.rank}. Received: {', '.join(received)}."
    )


def _each_shape(shape):
    return shape if isinstance(shape[0], tuple) else (shape,)


def mismatch(
    term: Any, head: keras.layers.Layer | None, shape: tuple, student: tuple, compared: tuple, teacher: tuple
) -> str:
    """Return the message for activations that the loss of a term cannot compare.

    Args:
        term: The `Term`.
        head: Its head, or None.
        shape: Shape of the student's activation after the head.
        student: Shape of the student's activation.
        compared: Shape of the teacher's activation after `teacher_head`.
        teacher: Shape of the teacher's activation.
    """
    transformed = "" if term.teacher_head is None else f", {compared} after `teacher_head`"
    if term.loss.logits and shape[-1] != compared[-1]:
        return (
            f"Term '{term.name}' compares {shape[-1]} student classes with {compared[-1]} teacher classes: "
            f"student '{term.student}' has shape {student}, teacher '{term.teacher}' has {teacher}{transformed}. "
            "Both need the same classes in the same order; see ModelTeacher(teacher, classes=...). If only the last "
            f"ones differ, such as the padding of a vocabulary, pass Term(words={min(shape[-1], compared[-1])})."
        )
    mapped = "" if head is None else f", {shape} after head '{head.name}',"
    if head is not None:
        advice = "Choose another head."
    elif term.teacher_head is not None:
        advice = "Choose another `teacher_head`, or add a head for the student."
    elif term.loss.logits and len(shape) in (3, 4, 5) and len(shape) == len(teacher):
        advice = "Add head=keras_distill.heads.Resize(), or tap other layers."
    elif term.loss.logits or isinstance(term.student, tuple):
        advice = "Tap other layers."
    else:
        advice = f"Add a head, such as head='{AUTO}', or tap other layers."
    return (
        f"Term '{term.name}' cannot compare student '{term.student}' of shape {student}{mapped} with "
        f"teacher '{term.teacher}' of shape {teacher}{transformed}. {advice}"
    )


def description(term: Any, traced: Traced) -> str:
    """Return a line with the taps, the head and the shapes of a term.

    Args:
        term: The built `Term`.
        traced: `Traced` activations of both models.
    """
    head = "no head" if term.head is None else type(term.head).__name__
    student, teacher = _tapped(term.student, traced.student), _tapped(term.teacher, traced.teacher)
    untrained = "" if term.teacher_head is None else f" <- {_name_of(term.teacher_head)}"
    # The teacher's head is read from right to left: both arrows point to what is compared.
    compared = f"{head}{untrained} <- teacher" if untrained else f"{head} -> teacher"
    return f"Term '{term.name}' ({type(term.loss).__name__}): student {student} -> {compared} {teacher}"


def _name_of(function):
    return getattr(function, "__name__", type(function).__name__)


def _tapped(taps, specs):
    return ", ".join(f"'{tap}' {specs[tap].shape}" for tap in tap_names(taps))
