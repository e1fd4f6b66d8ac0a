"""Checks of arguments."""

import math
import numbers
from typing import Any

import keras


def check_integer(value: Any, name: str, at_least: int = 1, optional: bool = False) -> int | None:
    """Return `value` as a Python integer.

    Args:
        value: An integer, NumPy's included.
        name: Name of the argument, for the error.
        at_least: Smallest value that is allowed. Defaults to 1.
        optional: Whether None is allowed, and returned. Defaults to False.

    Returns:
        The integer, or None if `optional` allows it.

    Raises:
        ValueError: For a boolean, a float or any other type, and for an integer that is too small.
    """
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        allowed = f"an integer >= {at_least}{' or None' if optional else ''}"
        raise ValueError(f"`{name}` must be {allowed}. Received: {value!r}")
    return int(value)


def check_number(
    value: Any,
    name: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    alternative: str = "",
) -> float:
    """Return `value` as a Python float.

    Args:
        value: A number, NumPy's included.
        name: Name of the argument, for the error.
        at_least: Smallest value that is allowed. Defaults to None, no bound.
        above: Lower bound that is not allowed itself. Defaults to None, no bound.
        at_most: Largest value that is allowed. Defaults to None, no bound.
        below: Upper bound that is not allowed itself. Defaults to None, no bound.
        alternative: Other values that the caller accepts, such as " or a schedule", for the error. Defaults to "".

    Returns:
        The number.

    Raises:
        ValueError: For a boolean, NaN, an infinity, any other type, and a number out of bounds.
    """
    bounds = ((">=", at_least), (">", above), ("<=", at_most), ("<", below))
    fits = (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )
    if not fits:
        allowed = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        raise ValueError(f"`{name}` must be a finite number {allowed}{alternative}. Received: {value!r}")
    return float(value)


def check_model(value: Any, name: str) -> keras.Model:
    """Return `value` if it is a model and not a distiller of one.

    Args:
        value: A `keras.Model`.
        name: Name of the argument, for the error.

    Raises:
        ValueError: For a path, a distiller or anything else; the error says what to pass instead.
    """
    # Also one of Keras or of the user.
    distiller = hasattr(value, "student") and (hasattr(value, "terms") or hasattr(value, "teacher"))
    if isinstance(value, keras.Model) and not distiller:
        return value
    advice = "Load a file by keras.saving.load_model(path)."
    if distiller:
        advice = "Pass the student of a distiller: `distiller.student`."
    raise ValueError(f"`{name}` must be a keras.Model. {advice} Received: {value!r}")
