"""What is refused, or warned of, before training starts."""

import collections
import dataclasses
import itertools
import re
import warnings

import keras
import tensorflow as tf

from keras_distill.masking import fits
from keras_distill.specs import Spec
from keras_distill.taps import names_of
from keras_distill.term import Term

_CROSSENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
)


def named(terms):
    """The terms, each under a name of its own: the user's, or the loss's with a number behind where it recurs.

    Raises:
        ValueError: If there are no terms, if they are not `Term`s, or if the user gave a name twice.
    """
    if not isinstance(terms, (list, tuple)) or not all(isinstance(term, Term) for term in terms):
        raise ValueError(f"`terms` must be a list of Term. Received: {terms!r}")
    if not terms:
        raise ValueError("`terms` is empty: nothing would be distilled. Pass at least [Term(KullbackLeibler())].")
    given = [term.name for term in terms if term.name is not None]
    twice = [name for name, count in collections.Counter([*given, "supervised"]).items() if count > 1]
    if twice:
        raise ValueError(
            f"Each term needs a name of its own, other than 'supervised'. Received more than once: {twice}."
        )
    taken, result = set(given), []
    for term in terms:
        name = base = term.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(term.loss).__name__).lower()
        number = 1
        while term.name is None and name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        result.append(dataclasses.replace(term, name=name))
    return result


def check_models(student, teacher):
    """Refuses a student that is none, or is in part the teacher, and a teacher that has nothing to teach.

    Raises:
        ValueError: Naming the weights in question.
    """
    if not isinstance(student, keras.Model):
        raise ValueError(f"The student must be a keras.Model. Received: {student!r}")
    if any(model is student for model in teacher.models):
        raise ValueError(
            f"Student and teacher are the same model, '{student.name}'. Train a copy: keras.models.clone_model."
        )
    shared = _shared(student, teacher)
    if shared:
        raise ValueError(
            f"'{student.name}' shares the weights {_some(shared)} with its teacher, which must not change while it "
            "teaches. Give the student layers of its own, and copy the values with `set_weights`."
        )
    broken = _broken(teacher)
    if broken:
        raise ValueError(f"The teacher's weights {_some(broken)} hold NaN or infinity. Was it trained and loaded well?")


def check_peers(peers):
    """Refuses peers that are not two models or more, each with weights of its own.

    Args:
        peers: `{name: model}`.

    Raises:
        ValueError: Naming the peers, and the weights in question.
    """
    if not isinstance(peers, dict):
        raise ValueError(f"`peers` must be a list of models, or a dictionary of them under names. Received: {peers!r}")
    if len(peers) < 2:
        raise ValueError(f"Two peers or more teach one another. Received: {list(peers)}.")
    strange = {name: peer for name, peer in peers.items() if not isinstance(peer, keras.Model)}
    if strange:
        raise ValueError(f"Each peer must be a keras.Model. Received: {strange!r}")
    unfit = [name for name in peers if not (isinstance(name, str) and name)]
    if unfit:
        raise ValueError(f"Each peer needs a name, under which the logs show it. Received: {unfit}.")
    for (first, one), (second, other) in itertools.combinations(peers.items(), 2):
        shared = _shared(one, other)
        if one is other or shared:
            what = f"the weights {_some(shared)}" if one is not other else "one model"
            raise ValueError(
                f"The peers '{first}' and '{second}' share {what}: they would always agree there. Make each from "
                "layers of its own."
            )
    for name, peer in peers.items():
        if _broken(peer):
            raise ValueError(f"The weights {_some(_broken(peer))} of peer '{name}' hold NaN or infinity.")


def check_predictions(predictions, tap):
    """Refuses peers whose predictions are not logits of the same classes.

    Args:
        predictions: `{peer: Spec}`, or a structure of `Spec` for a model of several outputs.
        tap: Where they are.

    Raises:
        ValueError: Naming the peers and shapes.
    """
    for name, spec in predictions.items():
        if not isinstance(spec, Spec):
            entries = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
            raise ValueError(
                f"Peer '{name}' returns a structure with the entries {entries}. Choose one: "
                f"logits='{tap}[{entries[0]}]'."
            )
        if spec.probabilities:
            raise ValueError(
                f"Peers compare logits, but '{tap}' of peer '{name}' ends in a {spec.source.lower()}. Say with "
                "`logits=` which layer comes before it, or give that layer no activation."
            )
    shapes = {name: spec.shape for name, spec in predictions.items()}
    if len({shape[-1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"Peers must have the same classes in the same order. Received at '{tap}': {shapes}.")


def check_masks(terms, inputs, students):
    """Refuses a term whose `mask` is no input, or does not fit what the term compares.

    Args:
        terms: List of `Term`.
        inputs: Structure of `tf.TensorSpec`.
        students: `{tap: Spec}`.

    Raises:
        ValueError: Naming the inputs, or both shapes.
    """
    for term in terms:
        if term.mask is None:
            continue
        if not isinstance(inputs, dict) or term.mask not in inputs:
            there = list(inputs) if isinstance(inputs, dict) else "a single tensor or a list, which have no names"
            raise ValueError(f"Term '{term.name}' looks for its mask in the input '{term.mask}'. Inputs: {there}.")
        tap, mask = names_of(term.student)[0], inputs[term.mask]
        if len(mask.shape) < 2 or not fits(mask, students[tap]):
            raise ValueError(
                f"The mask '{term.mask}' of term '{term.name}' has shape {tuple(mask.shape)}, which does not fit "
                f"student '{tap}' of shape {students[tap].shape}: its axes must be the first ones of that."
            )


def check_balances(terms, loss):
    """Refuses terms balanced with a supervised loss where there is none."""
    balanced = [term.name for term in terms if term.balanced]
    if balanced and loss is None:
        raise ValueError(
            f"The weights of the terms {balanced} are balanced with the supervised loss, but `compile` got none. "
            "Pass `loss=`, or give the terms numbers as weights."
        )


def warn_of_wrong_link(loss, output):
    """Warns of a cross-entropy that takes logits for probabilities, as Keras' do unless told otherwise."""
    name = loss if isinstance(loss, str) else type(loss).__name__
    by_name = loss in ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
    if not (by_name or isinstance(loss, _CROSSENTROPIES) and not loss.from_logits):
        return
    if isinstance(output, Spec) and not output.probabilities:
        warnings.warn(
            f"The loss '{name}' takes the student's output for probabilities, but it ends in no softmax or sigmoid. "
            "If it gives logits, pass the loss as an object with from_logits=True.",
            stacklevel=3,
        )


def _shared(model, other):
    own = {id(weight) for weight in model.weights}
    return [weight.path for weight in other.weights if id(weight) in own]


def _broken(model):
    return [weight.path for weight in model.weights if not _finite(weight)]


def _finite(weight):
    return not keras.backend.is_float_dtype(weight.dtype) or bool(tf.reduce_all(tf.math.is_finite(weight)))


def _some(names):
    return names if len(names) <= 3 else [*names[:3], f"and {len(names) - 3} more"]
