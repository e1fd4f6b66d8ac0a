"""Types of command-line arguments."""

import argparse
import ast
import math
import os
import re
from typing import Any

# The checks of `keras_distill.utils.arguments` are not used here: importing them imports TensorFlow.

# Largest float32.
_LARGEST = 3.4e38


def finite_number(text: str) -> float:
    """Return the number that a decimal or a fraction such as "1/255" stands for."""
    numerator, _, denominator = text.partition("/")
    try:
        number = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    # Most computations are in float32.
    if not abs(number) <= _LARGEST:
        raise argparse.ArgumentTypeError(f"must be a finite number such as 0.5 or 1/255, got {text}")
    return number


def positive_number(text: str) -> float:
    """Return a number above 0."""
    number = finite_number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be > 0, got {text}")
    return number


def softmax_temperature(text: str) -> float:
    """Return a number in [0.001, 10000]: outside, soft targets or their differences vanish in float32."""
    number = positive_number(text)
    if not 1e-3 <= number <= 1e4:
        raise argparse.ArgumentTypeError(f"must be from 0.001 to 10000, got {text}")
    return number


def fraction_between(text: str) -> float:
    """Return a number in (0, 1)."""
    number = finite_number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1), got {text}")
    return number


def fraction_below_one(text: str) -> float:
    """Return a number in [0, 1)."""
    number = finite_number(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1), got {text}")
    return number


def positive_integer(text: str) -> int:
    """Return an integer >= 1."""
    return _integer(text, 1, 2**31 - 1)


def read_names(text: str) -> list[str]:
    """Return names that are separated by commas, or the lines of a text file."""
    if os.path.isfile(text):
        with open(text, encoding="utf-8") as file:
            names = file.read().splitlines()
    else:
        names = text.split(",")
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"must be names separated by commas or a text file, got {text}")
    return names


def name_and_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of "NAME" or "NAME(key=value, ...)"."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    try:
        if match is None:
            raise ValueError
        call = ast.parse(f"f({match[2] or ''})", mode="eval").body
        settings = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        if call.args or None in settings:
            raise ValueError
    except (SyntaxError, ValueError):
        raise argparse.ArgumentTypeError(
            f"has invalid settings: write them as NAME(key=value, ...) with numbers, texts or lists, got {text}"
        ) from None
    return match[1], settings


def split_or_fraction(text: str) -> float | str:
    """Return a fraction as a number, and any other text as it is."""
    try:
        float(text.partition("/")[0])
    except ValueError:
        return text
    fraction = finite_number(text)
    if not 0 < fraction < 1:
        raise argparse.ArgumentTypeError(f"must be a fraction in (0, 1), a split or a dataset, got {text}")
    return fraction


def number_of_epochs(text: str) -> int:
    """Return an integer from 1 to 1,000,000."""
    return _integer(text, 1, 10**6)


def random_seed(text: str) -> int:
    """Return an integer that seeds all random generators."""
    return _integer(text, 0, 2**32 - 1)


def _integer(text: str, at_least: int, at_most: int) -> int:
    # `int` also accepts "1_000" and " 1 ", and raises another error for thousands of digits.
    number = int(text[:20]) if text.isdecimal() else -1
    if number < at_least:
        raise argparse.ArgumentTypeError(f"must be an integer >= {at_least}, got {text}")
    if number > at_most:
        raise argparse.ArgumentTypeError(f"must be at most {at_most}, got {text}")
    return number
