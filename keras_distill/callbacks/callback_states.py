"""State of Keras callbacks, captured in a checkpoint and restored from it."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

_MISSING = object()


class CallbackStates:
    """Numbers, strings, arrays and lists of arrays among the attributes of callbacks.

    Arguments of a callback's constructor are excluded: they are settings, which the script passes again, and some
    callbacks change them at the first use, such as `EarlyStopping.min_delta`.

    Args:
        callbacks: The callbacks, in the same order in every run. Their initial state is recorded here.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]):
        self.callbacks = callbacks
        self._initial = [_plain_attributes(callback) for callback in callbacks]

    def capture(self) -> tuple[list[dict], dict[str, np.ndarray]]:
        """Return the state of each callback for JSON, and `{name: array}` of all arrays in it."""
        states, arrays = [], {}
        for index, (callback, initial) in enumerate(zip(self.callbacks, self._initial)):
            # Attributes that never change are settings, too, which the script may change between two runs.
            current = _plain_attributes(callback)
            plain = {name: value for name, value in current.items() if initial.get(name, _MISSING) != value}
            lists = _array_attributes(callback)
            for name, (_, values) in lists.items():
                arrays |= {_key(index, name, number): value for number, value in enumerate(values)}
            states.append({"plain": plain, "arrays": {name: length for name, (length, _) in lists.items()}})
        return states, arrays

    def restore(self, states: list[dict], arrays: dict[str, np.ndarray]) -> None:
        """Set the attributes of the callbacks to a captured state.

        Args:
            states: First result of `capture`.
            arrays: Second result of `capture`. Other entries are ignored.
        """
        for index, (callback, state) in enumerate(zip(self.callbacks, states)):
            vars(callback).update(state["plain"])
            for name, length in state["arrays"].items():
                values = [arrays[_key(index, name, number)] for number in range(length or 1)]
                setattr(callback, name, values if length else values[0])


def _key(index, attribute, number):
    return f"callback/{index}/{attribute}/{number}"


def _plain_attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the numbers, strings, booleans and None among a callback's state, `{attribute: value}`."""
    values = {
        name: value.item() if isinstance(value, np.generic) else value for name, value in _attributes(callback).items()
    }
    return {
        name: value for name, value in values.items() if value is None or isinstance(value, (bool, int, float, str))
    }


def _array_attributes(callback):
    """Return `{attribute: (length, arrays)}` of arrays, whose length is None, and lists of arrays."""
    found = {}
    for name, value in _attributes(callback).items():
        if isinstance(value, np.ndarray):
            found[name] = (None, [value])
        elif isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
            found[name] = (len(value), value)
    return found


def _attributes(callback):
    arguments = {name for cls in type(callback).__mro__ for name in inspect.signature(cls.__init__).parameters}
    return {name: value for name, value in vars(callback).items() if name not in arguments}
