"""State and description of a training run, and differences between two runs."""

import importlib.metadata
import inspect
import itertools
import json
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.distribution import workers
from keras_distill.training.base import BaseDistiller


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return all variables that training changes, except those of metrics, in a fixed order.

    Args:
        model: A compiled model with a built optimizer.

    Returns:
        `{name: variable}` of weights, random states, a teacher's state and the optimizer.
    """
    unlisted = model._unlisted().values() if isinstance(model, BaseDistiller) else ()
    return _name_variables(model=model.variables, unlisted=unlisted, optimizer=model.optimizer.variables)


def metrics(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the variables of the metrics in a fixed order, `{name: variable}`."""
    return _name_variables(metric=model.metrics_variables)


def differences(first: dict, second: dict, first_place: str, second_place: str) -> str:
    """Describe the differences between two runs in words.

    Args:
        first: Description of a run: a dictionary with any of `versions`, `settings` and `data`, each a dictionary;
            `seed` and `steps_per_execution`; and `variables`, a list of `[name, shape, dtype]`.
        second: Description of another run, in the same form.
        first_place: Place where the first was found, such as "on worker 0".
        second_place: Place where the second was found, such as "on worker 1".

    Returns:
        Text such as "seed 0 on worker 0 and 1 on worker 1". Empty if there is no difference.
    """
    texts = []
    # Part by part: a setting may have the same name as an entry of another part, such as "seed".
    for part in ("versions", "settings", "data"):
        a, b = first.get(part, {}), second.get(part, {})
        texts += [
            f"{name} {a.get(name)!r} {first_place} and {b.get(name)!r} {second_place}"
            for name in dict.fromkeys([*a, *b])
            if a.get(name) != b.get(name)
        ]
    for key in ("seed", "steps_per_execution"):
        if first.get(key) != second.get(key):
            texts.append(f"{key} {first.get(key)!r} {first_place} and {second.get(key)!r} {second_place}")
    pairs = itertools.zip_longest(first.get("variables", ()), second.get("variables", ()))
    unequal = [
        (a, b)
        for a, b in pairs
        if a is None or b is None or a[1:] != b[1:] or strip_numbers(a[0]) != strip_numbers(b[0])
    ]
    if unequal:
        a, b = map(_format_variable, unequal[0])
        texts.append(f"{len(unequal)} variables, such as {a} {first_place} and {b} {second_place}")
    return "; ".join(texts)


def check_workers(strategy: tf.distribute.Strategy, run: dict) -> None:
    """Check that all workers train the same run. Collective: every worker must call it, and all raise together.

    Args:
        strategy: The current strategy. A single process passes.
        run: Description of this worker's run, in the form that `differences` takes.

    Raises:
        ValueError: If another worker's description differs from that of the first worker.
    """
    first, *others = (json.loads(text) for text in workers.all_gather_text(strategy, json.dumps(run)))
    for worker, other in enumerate(others, 1):
        text = differences(first, other, "on worker 0", f"on worker {worker}")
        if text:
            raise ValueError(
                f"The workers run different trainings: {text}. Start all workers with the same script, settings and "
                "packages."
            )


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the numerical results, `{package: version}`."""
    try:
        own = importlib.metadata.version("keras-distill")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {"keras": keras.__version__, "tensorflow": tf.__version__, "keras_distill": own}


def strip_numbers(name: str) -> str:
    """Return a variable's name without the numbers that Keras appends to generated names.

    A process that loads a model numbers its layers differently than the process that trained it.
    """
    return re.sub(r"_\d+", "", name)


def plain_attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the numbers, strings, booleans and None among a callback's state, `{attribute: value}`."""
    values = {
        name: value.item() if isinstance(value, np.generic) else value for name, value in _state(callback).items()
    }
    return {
        name: value for name, value in values.items() if value is None or isinstance(value, (bool, int, float, str))
    }


def array_attributes(callback: keras.callbacks.Callback) -> dict[str, tuple[int | None, list[np.ndarray]]]:
    """Return the arrays and lists of arrays among a callback's state.

    Args:
        callback: The callback.

    Returns:
        `{attribute: (length, arrays)}`. The length is None for a single array.
    """
    found = {}
    for name, value in _state(callback).items():
        if isinstance(value, np.ndarray):
            found[name] = (None, [value])
        elif isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
            found[name] = (len(value), value)
    return found


def _name_variables(**kinds):
    found = {id(variable): (kind, variable) for kind, variables in kinds.items() for variable in variables}
    return {f"{kind}/{index}/{variable.path}": variable for index, (kind, variable) in enumerate(found.values())}


def _format_variable(entry):
    return "none" if entry is None else f"'{entry[0]}' {tuple(entry[1])} {entry[2]}"


def _state(callback):
    """Return a callback's attributes without those that are arguments of its constructor.

    These are settings, which the script passes again. Some callbacks change them at the first use, such as
    `EarlyStopping.min_delta`.
    """
    arguments = {name for cls in type(callback).__mro__ for name in inspect.signature(cls.__init__).parameters}
    return {name: value for name, value in vars(callback).items() if name not in arguments}
