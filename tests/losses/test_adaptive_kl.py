import numpy as np
import pytest

from keras_distill.losses import AdaptiveKL
from keras_distill.losses.adaptive_kl import adaptive_kl
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, mu, temperature=1.0, weighted=None):
    """Algorithm of the authors' code, times T^2. `weighted` are the student's logits in the weights."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    gap = np.abs(p - (q if weighted is None else softmax(weighted, temperature)))
    values = np.zeros(p.shape[:-1])
    for row in np.ndindex(*values.shape):
        order = np.argsort(-p[row], kind="stable")
        size = max(1, (np.cumsum(p[row][order]) <= mu).sum())
        weight = gap[row][order[:size]].sum() / gap[row].sum()
        log_ratio = np.log(p[row] / q[row])
        values[row] = weight * (p[row] * log_ratio).sum() - (1 - weight) * (q[row] * log_ratio).sum()
    return temperature**2 * values


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_published_algorithm(shape, mu, temperature):
    student, teacher = features(*shape, scale=2), features(*shape, seed=1, scale=2)
    # The sum of all probabilities is 1 up to rounding, which decides whether the last class is in the head.
    expected_mu = 2.0 if mu == 1 else mu
    value, gradient = value_and_gradient(lambda s: adaptive_kl(s, teacher, expected_mu, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, expected_mu, temperature).mean(), rtol=1e-5)
    slope = central_differences(
        lambda s: reference(s, teacher, expected_mu, temperature, weighted=student).mean(), student
    )
    np.testing.assert_allclose(gradient, slope, atol=2e-6)


def test_known_value():
    # Teacher 1/2, 1/4, 1/4; student 1/4, 3/8, 3/8. The head is the first class, with half of the sum of the gaps.
    teacher, student = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.375, 0.375]])
    forward, reverse = 0.5 * np.log(2) + 0.5 * np.log(2 / 3), 0.25 * np.log(1 / 2) + 0.75 * np.log(3 / 2)
    np.testing.assert_allclose(adaptive_kl(student, teacher), [(forward + reverse) / 2], rtol=1e-5)


def test_the_class_that_exceeds_the_limit_belongs_to_the_tail():
    # The first class has 0.4, the second raises the sum to 0.7 > 0.5. Only the second and the fourth differ.
    teacher, student = np.log([[0.4, 0.3, 0.2, 0.1]]), np.log([[0.4, 0.2, 0.2, 0.2]])
    reverse = 0.2 * np.log(2 / 3) + 0.2 * np.log(2)
    np.testing.assert_allclose(adaptive_kl(student, teacher, mu=0.5), [reverse], rtol=1e-5)


@pytest.mark.parametrize("mu", [-0.1, 1.1, float("nan"), True, "0.5"])
def test_rejects_invalid_mu(mu):
    with pytest.raises(ValueError, match="`mu` must be a finite number >= 0 and <= 1. Received:"):
        AdaptiveKL(mu)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match=r"AdaptiveKL compares two classes or more.*\(None, 1\)"):
        AdaptiveKL().build((None, 1), (None, 1))
