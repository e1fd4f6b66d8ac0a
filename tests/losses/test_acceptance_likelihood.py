import numpy as np
import pytest

from keras_distill.losses import AcceptanceLikelihood
from keras_distill.losses.acceptance_likelihood import acceptance_likelihood
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, temperature=1.0):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return -temperature * np.log(np.maximum(np.minimum(p, q).sum(axis=-1), 1e-5))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [0.1, 2.0, 8.0])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_formula(shape, scale, temperature):
    student, teacher = features(*shape, scale=scale), features(*shape, seed=1, scale=scale)
    value, gradient = value_and_gradient(lambda s: acceptance_likelihood(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=2e-6)


def test_known_value():
    # The minima are 1/4, 1/4 and 1/4.
    student, teacher = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.5, 0.25]])
    np.testing.assert_allclose(acceptance_likelihood(student, teacher), [-np.log(0.75)], rtol=1e-6)


def test_accurate_near_0_and_near_1():
    student, teacher = np.array([[0.0, 9.0], [0.0, 1e-3]]), np.array([[9.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(acceptance_likelihood(student, teacher), reference(student, teacher), rtol=1e-4)


def test_bounded_for_models_without_a_common_word():
    value, gradient = value_and_gradient(
        lambda s: acceptance_likelihood(s, np.array([[90.0, 0.0]], "float32")), np.array([[0.0, 90.0]], "float32")
    )
    np.testing.assert_allclose(value, -np.log(1e-5), rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match=r"AcceptanceLikelihood compares two classes or more.*\(None, 1\)"):
        AcceptanceLikelihood().build((None, 1), (None, 1))
