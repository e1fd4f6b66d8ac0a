import numpy as np
import pytest

from keras_distill.losses.koleo import koleo
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student):
    """Mean of log 2 minus the logarithm of the distance to the nearest neighbor, without the epsilon of the code."""
    rows = student.astype("float64") / np.linalg.norm(student, axis=-1, keepdims=True)
    distances = np.linalg.norm(rows[:, None] - rows, axis=-1) + 10 * np.eye(len(rows))
    return np.mean(np.log(2) - np.log(distances.min(1)))


@pytest.mark.parametrize("shape", [(2, 3), (7, 4)])
def test_matches_the_paper(shape):
    student = features(*shape)
    value, gradient = value_and_gradient(koleo, student)
    np.testing.assert_allclose(value, reference(student), rtol=1e-4)
    slope = central_differences(reference, student)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_known_value():
    # Opposite vectors have the largest distance, orthogonal ones a distance of sqrt(2).
    np.testing.assert_allclose(koleo(np.array([[3.0, 0.0], [-1.0, 0.0]])), [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(koleo(5 * np.eye(3)), [np.log(2) / 2] * 3, rtol=1e-5)


def test_a_single_example_has_no_neighbor():
    value, gradient = value_and_gradient(koleo, features(1, 4))
    assert value == 0 and not np.any(gradient)
