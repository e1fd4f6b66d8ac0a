"""What a run of a training consists of, and in what two runs differ."""

import importlib.metadata
import inspect
import itertools
import json
import re

import keras
import numpy as np
import tensorflow as tf

from keras_distill.distribution import workers
from keras_distill.training.base import BaseDistiller


def variables(model):
    """`{name: variable}` of all that training changes but metrics, in a fixed order."""
    unlisted = model.untracked_variables().values() if isinstance(model, BaseDistiller) else ()
    return _named(model=model.variables, unlisted=unlisted, optimizer=model.optimizer.variables)


def metrics(model):
    """The same of the metrics."""
    return _named(metric=model.metrics_variables)


def differences(one, other, there, here):
    """What two descriptions of a run do not have in common, in words; empty if it is nothing.

    Args:
        one, other: Dictionaries with some of `versions`, `settings` and `data`, each a dictionary; `seed` and
            `steps_per_execution`; and `variables`, a list of `[name, shape, dtype]`.
        there, here: Where the two were found.
    """
    found = []
    # Each by itself: a setting may be called "seed", too.
    for part in ("versions", "settings", "data"):
        a, b = one.get(part, {}), other.get(part, {})
        found += [
            f"{name} {a.get(name)!r} {there} and {b.get(name)!r} {here}"
            for name in dict.fromkeys([*a, *b])
            if a.get(name) != b.get(name)
        ]
    for key in ("seed", "steps_per_execution"):
        if one.get(key) != other.get(key):
            found.append(f"{key} {one.get(key)!r} {there} and {other.get(key)!r} {here}")
    pairs = itertools.zip_longest(one.get("variables", ()), other.get("variables", ()))
    unlike = [
        (a, b)
        for a, b in pairs
        if a is None or b is None or a[1:] != b[1:] or strip_numbers(a[0]) != strip_numbers(b[0])
    ]
    if unlike:
        first, second = ("none" if each is None else f"'{each[0]}' {tuple(each[1])} {each[2]}" for each in unlike[0])
        found.append(f"{len(unlike)} variables, such as {first} {there} and {second} {here}")
    return "; ".join(found)


def check_workers(strategy, run):
    """Refuses workers that do not train alike; all of them ask at once, and all raise.

    Args:
        strategy: A `tf.distribute.Strategy`.
        run: This worker's description, as `differences` takes it.

    Raises:
        ValueError: With the differences between the first worker and another.
    """
    first, *others = (json.loads(text) for text in workers.all_gather_text(strategy, json.dumps(run)))
    for worker, other in enumerate(others, 1):
        found = differences(first, other, "on worker 0", f"on worker {worker}")
        if found:
            raise ValueError(
                f"The workers do not train alike: {found}. Start all of them with the same script, settings and "
                "packages."
            )


def versions():
    """Of the packages on which the numbers depend."""
    try:
        own = importlib.metadata.version("keras-distill")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {"keras": keras.__version__, "tensorflow": tf.__version__, "keras_distill": own}


def strip_numbers(name):
    """A variable's name without the numbers that Keras gives to what it names by itself: a process that loads a model
    counts otherwise than one that trained it.
    """
    return re.sub(r"_\d+", "", name)


def plain_attributes(callback):
    """A callback's numbers and texts."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in _kept(callback).items()}
    return {
        name: value for name, value in values.items() if value is None or isinstance(value, (bool, int, float, str))
    }


def array_attributes(callback):
    """A callback's arrays and lists of them, `{name: (length or None, [array])}`."""
    found = {}
    for name, value in _kept(callback).items():
        if isinstance(value, np.ndarray):
            found[name] = (None, [value])
        elif isinstance(value, list) and value and all(isinstance(each, np.ndarray) for each in value):
            found[name] = (len(value), value)
    return found


def _named(**kinds):
    found = {id(variable): (kind, variable) for kind, variables in kinds.items() for variable in variables}
    return {f"{kind}/{index}/{variable.path}": variable for index, (kind, variable) in enumerate(found.values())}


def _kept(callback):
    """A callback's attributes but those that it was made with: settings, which the script gives, and which some, such
    as `EarlyStopping.min_delta`, turn into something else when they are first used.
    """
    given = {name for cls in type(callback).__mro__ for name in inspect.signature(cls.__init__).parameters}
    return {name: value for name, value in vars(callback).items() if name not in given}
