import numpy as np
import pytest

from keras_distill.losses import SkewReverseKL
from keras_distill.losses.skew_reverse_kl import skew_reverse_kl
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, skew, temperature=1.0, mixed=None):
    """The paper's skew reverse divergence, times T^2. `mixed` are the student's logits in the mixture."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    mixture = skew * (q if mixed is None else softmax(mixed, temperature)) + (1 - skew) * p
    return temperature**2 * (q * np.log(q / mixture)).sum(axis=-1)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("skew", [1e-6, 0.1, 0.9])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_paper(shape, skew, temperature, detach):
    student, teacher = features(*shape, scale=4), features(*shape, seed=1, scale=4)
    mixed = student if detach else None
    value, gradient = value_and_gradient(lambda s: skew_reverse_kl(s, teacher, skew, temperature, detach), student)
    np.testing.assert_allclose(value, reference(student, teacher, skew, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, skew, temperature, mixed).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=2e-6)


def test_known_value():
    # The student is confident of a class to which the teacher gives no probability: the mixture gives it the skew.
    student, teacher = np.array([[200.0, 0.0]]), np.array([[0.0, 200.0]])
    for skew in (0.5, 0.1, 1e-6):
        np.testing.assert_allclose(skew_reverse_kl(student, teacher, skew), [-np.log(skew)], rtol=1e-5)


def test_a_constant_mixture_changes_the_gradient_only():
    student, teacher = features(4, 6), features(4, 6, seed=1)
    value, full = value_and_gradient(lambda s: skew_reverse_kl(s, teacher, 0.5), student)
    detached_value, detached = value_and_gradient(lambda s: skew_reverse_kl(s, teacher, 0.5, detach=True), student)
    assert value == detached_value
    assert np.abs(full - detached).max() > 0.1 * np.abs(full).max()


@pytest.mark.parametrize("skew", [0, 1.0, float("nan"), True, "0.5"])
def test_rejects_invalid_skew(skew):
    with pytest.raises(ValueError, match="`skew` must be a finite number > 0 and < 1. Received:"):
        SkewReverseKL(skew)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match=r"SkewReverseKL compares two classes or more.*\(None, 1\)"):
        SkewReverseKL().build((None, 1), (None, 1))
