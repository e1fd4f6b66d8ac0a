import numpy as np
import pytest

from keras_distill.losses import ReverseKL
from keras_distill.losses.kl_divergence import kl_divergence
from keras_distill.losses.reverse_kl import reverse_kl
from tests.support.helpers import central_differences, features, softened_kl, value_and_gradient


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_paper(shape, temperature):
    student, teacher = features(*shape, scale=2), features(*shape, seed=1, scale=2)
    value, gradient = value_and_gradient(lambda s: reverse_kl(s, teacher, temperature), student)
    np.testing.assert_allclose(value, softened_kl(teacher, student, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: softened_kl(teacher, s, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Uniform student, teacher probabilities 3/4 and 1/4.
    teacher = np.log(np.array([[3.0, 1.0]]))
    expected = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    np.testing.assert_allclose(reverse_kl(np.zeros((1, 2)), teacher), [expected], rtol=1e-6)


def test_prefers_one_mode_to_a_uniform_distribution():
    teacher = np.log(np.array([[0.49, 0.49, 0.02]]))
    one_mode, spread = np.log(np.array([[0.96, 0.02, 0.02]])), np.zeros((1, 3))
    assert reverse_kl(one_mode, teacher) < reverse_kl(spread, teacher)
    assert kl_divergence(one_mode, teacher, 1.0) > kl_divergence(spread, teacher, 1.0)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match=r"ReverseKL compares two classes or more.*\(None, 1\)"):
        ReverseKL().build((None, 1), (None, 1))
