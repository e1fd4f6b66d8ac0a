"""Checks of numeric arguments."""

import numpy as np
import pytest

from keras_distill.utils.arguments import check_integer, check_number


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (np.int64(3), 3), (1, 1)])
def test_integers(value, expected):
    result = check_integer(value, "k")
    assert result == expected
    assert type(result) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_invalid_integers_raise(value):
    with pytest.raises(ValueError, match=f"^`k` must be an integer >= 1. Received: {value!r}$"):
        check_integer(value, "k")


def test_optional_integers():
    assert check_integer(None, "k", optional=True) is None
    with pytest.raises(ValueError, match="`k` must be an integer >= 0 or None. Received: -1"):
        check_integer(-1, "k", at_least=0, optional=True)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers(value):
    result = check_number(value, "rate", above=0, at_most=1)
    assert result == value
    assert type(result) is float


@pytest.mark.parametrize("value", [0, 1.5, -1, float("nan"), float("inf"), True, "1", None])
def test_invalid_numbers_raise(value):
    with pytest.raises(ValueError, match=f"^`rate` must be a finite number > 0 and <= 1. Received: {value!r}$"):
        check_number(value, "rate", above=0, at_most=1)


def test_the_error_names_alternatives():
    with pytest.raises(ValueError, match="`weight` must be a finite number >= 0 or a schedule. Received: -1"):
        check_number(-1, "weight", at_least=0, alternative=" or a schedule")
