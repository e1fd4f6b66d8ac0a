"""Comparison of every loss with published code, in value and gradient."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.support.golden_adapters import ADAPTERS, NOT_COVERED

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
INDEX = json.loads((FOLDER / "INDEX.json").read_text())

# Relative to the value, and to the largest entry of a gradient. The references, run in float32, deviate by up to 1e-6.
TOLERANCE = 1e-5
# The difference of two vectors of unit length that are nearly equal cancels in float32.
TOLERANCE_OF = {"dinov2_koleo": 2e-5}


def cases():
    return [
        pytest.param(name, case, id=f"{name}-{case['name']}")
        for name, entry in INDEX.items()
        if name in ADAPTERS
        for case in entry["cases"]
    ]


def arrays_of(name, case, part):
    """Return `{name: array}` of the "in", "out" or "grad" arrays of a case."""
    prefix = f"{case['name']}__{part}__"
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


@pytest.mark.parametrize(("name", "case"), cases())
def test_matches_the_published_code(name, case):
    inputs = {key: tf.constant(array) for key, array in arrays_of(name, case, "in").items()}
    expected = arrays_of(name, case, "grad") if case["compare_gradient"] else {}
    watched = {key: inputs[key] for key in expected}
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = ADAPTERS[name](inputs, case["hyperparameters"])
    assert value.shape == () and value.dtype == tf.float32
    np.testing.assert_allclose(value, case["value"], rtol=TOLERANCE)
    for key, gradient in tape.gradient(value, watched).items():
        tolerance = TOLERANCE_OF.get(name, TOLERANCE)
        largest = np.abs(expected[key]).max()
        # A softmax near 0 and 1 has tiny gradients: float32 cannot resolve them. `INDEX.json` lists the cases.
        rounding = min(1e-7, case["tolerance_float32"]["grad_atol_over_max_abs"] * largest)
        np.testing.assert_allclose(gradient, expected[key], rtol=0, atol=max(tolerance * largest, rounding))


def test_every_name_is_covered_or_has_a_reason():
    assert not set(ADAPTERS) & set(NOT_COVERED)
    assert set(ADAPTERS) | set(NOT_COVERED) == set(INDEX)
    assert all(NOT_COVERED.values()) and len(NOT_COVERED) <= 12
