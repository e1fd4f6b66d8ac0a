import numpy as np
import pytest

from keras_distill.losses import SkewKL
from keras_distill.losses.kl_divergence import kl_divergence
from keras_distill.losses.skew_kl import skew_kl
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, skew, temperature=1.0):
    """Definition 1 of the paper, times T^2."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * (p * np.log(p / (skew * p + (1 - skew) * q))).sum(axis=-1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("skew", [1e-6, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_paper(shape, skew, temperature):
    student, teacher = features(*shape, scale=4), features(*shape, seed=1, scale=4)
    value, gradient = value_and_gradient(lambda s: skew_kl(s, teacher, skew, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, skew, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, skew, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=2e-6)


def test_known_value():
    # The teacher is confident of a class to which the student gives no probability: the mixture gives it the skew.
    student, teacher = np.array([[200.0, 0.0]]), np.array([[0.0, 200.0]])
    for skew in (0.5, 0.1, 1e-6):
        np.testing.assert_allclose(skew_kl(student, teacher, skew), [-np.log(skew)], rtol=1e-5)


@pytest.mark.parametrize("skew", [0.1, 0.9])
def test_accurate_for_nearly_equal_models(skew):
    teacher = features(4, 50)
    student = teacher + features(4, 50, seed=1, scale=1e-3)
    np.testing.assert_allclose(skew_kl(student, teacher, skew), reference(student, teacher, skew), rtol=2e-3)


def test_near_the_divergence_for_a_small_skew():
    student, teacher = features(3, 5), features(3, 5, seed=1)
    np.testing.assert_allclose(skew_kl(student, teacher, 1e-5), kl_divergence(student, teacher, 1.0), rtol=1e-4)


@pytest.mark.parametrize("skew", [0, 1.0, -0.1, float("nan"), True, "0.5"])
def test_rejects_invalid_skew(skew):
    with pytest.raises(ValueError, match="`skew` must be a finite number > 0 and < 1. Received:"):
        SkewKL(skew)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match=r"SkewKL compares two classes or more.*\(None, 1\)"):
        SkewKL().build((None, 1), (None, 1))
