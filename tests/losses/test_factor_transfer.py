import numpy as np
import pytest

from keras_distill.losses import FactorTransfer
from keras_distill.losses.factor_transfer import factor_transfer
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher, p, q):
    """Equation 3 of the paper, example by example."""

    def scaled(factor):
        return factor.ravel() / np.linalg.norm(factor.ravel().astype("float64"), q)

    return np.mean([np.linalg.norm(scaled(s) - scaled(t), p) for s, t in zip(student, teacher)])


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (1, 1), (3, 1.5), (1.5, 4)])
def test_matches_the_paper(p, q):
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    value, gradient = value_and_gradient(lambda s: factor_transfer(s, teacher, p, q), student)
    np.testing.assert_allclose(value, reference(student, teacher, p, q), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, p, q), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)


def test_known_value():
    # (0.6, 0.8) against (1, 0): 0.4 and 0.8 apart.
    student, teacher = np.array([[3.0, 4.0]]), np.array([[7.0, 0.0]])
    np.testing.assert_allclose(factor_transfer(student, teacher), [1.2], rtol=1e-6)
    np.testing.assert_allclose(factor_transfer(student, teacher, p=2), [np.sqrt(0.8)], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_ignores_the_scale_however_large_or_small(scale):
    student, teacher = features(3, 4, 5), features(3, 4, 5, seed=1)
    scaled = factor_transfer(scale * student, teacher, p=2, q=3)
    np.testing.assert_allclose(scaled, factor_transfer(student, teacher, p=2, q=3), rtol=1e-5)


@pytest.mark.parametrize("order", [0, 0.5, True, "1", float("inf")])
def test_invalid_orders_raise(order):
    with pytest.raises(ValueError, match="`q` must be a finite number >= 1"):
        FactorTransfer(q=order)
