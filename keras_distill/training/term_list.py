"""Terms of a distiller: accepted forms, and names for the logs."""

import collections
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import keras

from keras_distill.losses import KLDivergence, LossAdapter
from keras_distill.training.term import Term


def layers_of(values: Iterable[Any]) -> list[keras.layers.Layer]:
    """Return those of several values that are Keras layers."""
    return [value for value in values if isinstance(value, keras.layers.Layer)]


def as_terms(terms: Any, teacher: Any) -> list[Term]:
    """Return the terms of a distiller, each with a unique name.

    Args:
        terms: A `Term` or a loss, a list of these, or None for the default: `[Term(KLDivergence())]` with a teacher and
            no terms without one.
        teacher: The teacher, or None.

    Returns:
        List of `Term` with names: the user's, or the loss's, followed by a number where it recurs.

    Raises:
        ValueError: If there is a teacher and no terms, or terms and no teacher; for an entry that is neither a `Term`
            nor a loss; and for a name that was given twice or is "supervised".
    """
    if terms is None:
        terms = [] if teacher is None else [KLDivergence()]
    entries = list(terms) if isinstance(terms, (list, tuple)) else [terms]
    terms = [entry if isinstance(entry, Term) else Term(entry) for entry in entries]
    if not terms and teacher is not None:
        raise ValueError("`terms` is empty, so nothing would be distilled. Pass `terms=[Term(KLDivergence())]`.")
    if terms and teacher is None:
        raise ValueError(
            f"`teacher` is None, so the {len(terms)} terms have nothing to compare the student with. Pass a teacher, "
            "or `terms=[]` to train the baseline."
        )
    given = [term.name for term in terms if term.name is not None]
    repeated = [name for name, count in collections.Counter([*given, "supervised"]).items() if count > 1]
    if repeated:
        raise ValueError(f"Terms need unique names other than 'supervised'. Rename: {repeated}.")
    taken, named = {*given, "supervised"}, []
    for term in terms:
        name = term.name or _unused(_default_name(term.loss), taken)
        taken.add(name)
        named.append(dataclasses.replace(term, name=name))
    return named


def _default_name(loss):
    if isinstance(loss, LossAdapter):
        return loss.loss_name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(loss).__name__).lower()


def _unused(base, taken):
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name
