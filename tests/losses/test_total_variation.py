import numpy as np
import pytest

from keras_distill.losses.total_variation import total_variation
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, temperature):
    """Half the L1 distance, as in the paper, times T."""
    return temperature * np.abs(softmax(teacher, temperature) - softmax(student, temperature)).sum(axis=-1) / 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_paper(shape, temperature):
    student, teacher = features(*shape, scale=2), features(*shape, seed=1, scale=2)
    value, gradient = value_and_gradient(lambda s: total_variation(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Student 1/2, 1/4, 1/4, teacher 1/3 each.
    student = np.log(np.array([[2.0, 1.0, 1.0]]))
    np.testing.assert_allclose(total_variation(student, np.zeros((1, 3))), [1 / 6], rtol=1e-6)


def test_is_1_for_disjoint_predictions():
    student = np.array([[50.0, 0.0, 0.0]])
    np.testing.assert_allclose(total_variation(student, student[:, ::-1]), [1.0], rtol=1e-6)


def test_the_gradient_is_nearly_independent_of_a_high_temperature():
    student, teacher = features(4, 6), features(4, 6, seed=1)
    low, high = (
        value_and_gradient(lambda s, t=temperature: total_variation(s, teacher, t), student)[1]
        for temperature in (100.0, 1000.0)
    )
    np.testing.assert_allclose(low, high, atol=0.02 * np.abs(high).max())
