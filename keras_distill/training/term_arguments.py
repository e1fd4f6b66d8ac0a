"""Checks of a term's arguments."""

from typing import Any

import keras

from keras_distill.models.lm_head import logits_layer
from keras_distill.models.taps import OUTPUT
from keras_distill.training.term_activations import takes_several
from keras_distill.training.term_shapes import AUTO
from keras_distill.utils.arguments import check_integer


def check_arguments(term: Any) -> None:
    """Raise ValueError for an argument of the wrong type.

    Args:
        term: A `Term` whose loss is a `DistillationLoss` and whose several taps are a tuple.
    """
    if not (term.head is None or term.head == AUTO or isinstance(term.head, keras.layers.Layer)):
        raise ValueError(f"A Term's `head` must be a Keras layer, '{AUTO}' or None. Received: {term.head!r}")
    if not term.loss.takes_several:
        _check_single(term, "teacher", term.teacher)
        if not takes_several(term.head):
            _check_single(term, "student", term.student)
    if not (term.name is None or isinstance(term.name, str) and term.name):
        raise ValueError(f"A Term's `name` must be a string or None. Received: {term.name!r}")
    if not (term.mask is None or isinstance(term.mask, str)):
        raise ValueError(f"A Term's `mask` must be the name of an input or None. Received: {term.mask!r}")
    if not (term.positions is None or isinstance(term.positions, str) or callable(term.positions)):
        raise ValueError(f"A Term's `positions` must be a tap, a function or None. Received: {term.positions!r}")
    if not (term.teacher_head is None or callable(term.teacher_head)):
        raise ValueError(f"A Term's `teacher_head` must be a layer or a function. Received: {term.teacher_head!r}")
    if term.over not in ("examples", "tokens"):
        raise ValueError(f"A Term's `over` must be 'examples' or 'tokens'. Received: {term.over!r}")
    check_integer(term.words, "words", optional=True)
    check_words(term, term.loss)


def check_connected(term: Any, loss: Any, student: keras.Model, teacher: Any) -> None:
    """Raise ValueError if a loss of logits would compare the hidden states of a `HiddenStates` model.

    Args:
        term: A `Term`.
        loss: Its loss, connected to the models.
        student: The student.
        teacher: The `Teacher`.
    """
    check_words(term, loss)
    heads = {
        f"Student '{student.name}'": term.student == OUTPUT and term.head is None and logits_layer(student),
        "The teacher": term.teacher == OUTPUT and term.teacher_head is None and teacher.logits_layer,
    }
    for name, layer in heads.items() if loss.logits else ():
        if layer:
            # `Chunked` takes no other losses.
            wrap = f", or wrap the loss: `Term(Chunked({type(loss).__name__}(...)))`" if loss.pointwise else ""
            raise ValueError(
                f"{name} is a HiddenStates model, but {type(loss).__name__} compares logits. Pass the model "
                f"itself{wrap}."
            )


def check_words(term: Any, loss: Any) -> None:
    """Raise ValueError for `words` of a loss that does not compare logits.

    Args:
        term: A `Term`.
        loss: Its loss. Whether it compares logits may depend on the models, once it is connected to them.
    """
    if term.words is not None and not loss.logits:
        raise ValueError(
            f"A Term's `words` selects logits, but {type(loss).__name__} compares other activations. Leave it "
            f"out; for a loss of hidden states use `Chunked(loss, words={term.words})`."
        )


def _check_single(term, side, taps):
    if isinstance(taps, tuple):
        raise ValueError(f"{type(term.loss).__name__} compares one activation. Received: {side}={taps!r}")
