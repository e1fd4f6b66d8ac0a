"""Reads `tests/golden`: what published code answers on fixed inputs."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
import pytest
from helpers import value_and_gradient

FOLDER = pathlib.Path(__file__).parent / "golden"

# Relative for values, of the largest entry for gradients. The references themselves, run in float32, are within 1e-6.
TOLERANCE = 2e-6


class Case(NamedTuple):
    hyperparameters: dict
    student: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray | None
    value: float
    per_example: np.ndarray | None
    gradient: np.ndarray


def golden(loss):
    """The cases of one loss, as parameters of a test."""
    with np.load(FOLDER / f"{loss}.npz", allow_pickle=False) as arrays:
        return [
            pytest.param(
                Case(
                    hyperparameters=case["hyperparameters"],
                    student=arrays[f"{case['name']}__in__student"],
                    teacher=arrays[f"{case['name']}__in__teacher"],
                    labels=arrays.get(f"{case['name']}__in__labels"),
                    value=case["value"],
                    per_example=arrays.get(f"{case['name']}__out__per_example"),
                    gradient=arrays[f"{case['name']}__grad__student"],
                ),
                id=case["name"],
            )
            for case in json.loads((FOLDER / "INDEX.json").read_text())[loss]["cases"]
        ]


def assert_matches(case, function, factor=1.0):
    """Values and gradients agree with the case.

    Args:
        case: The `Case`.
        function: Our loss of the student alone, of shape `[batch, ...]`; its mean is compared.
        factor: What turns our reduction into the reference's.
    """
    value, gradient = value_and_gradient(function, case.student)
    np.testing.assert_allclose(factor * value, case.value, rtol=TOLERANCE)
    largest = np.abs(case.gradient).max()
    np.testing.assert_allclose(factor * gradient, case.gradient, rtol=0, atol=TOLERANCE * largest)
    if case.per_example is not None:
        values = np.asarray(function(case.student))
        values = values.reshape(len(values), -1).mean(axis=1)
        np.testing.assert_allclose(factor * values, case.per_example, rtol=TOLERANCE)
