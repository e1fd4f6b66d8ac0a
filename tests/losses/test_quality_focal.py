import numpy as np
import pytest

from keras_distill.losses.quality_focal import quality_focal
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher, beta):
    q, p = (1 / (1 + np.exp(-x.astype("float64"))) for x in (student, teacher))
    return (np.abs(q - p) ** beta * (-p * np.log(q) - (1 - p) * np.log(1 - q))).mean()


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4, 5)])
def test_matches_the_paper(shape, beta):
    student, teacher = features(*shape), features(*shape, seed=1)
    value, gradient = value_and_gradient(lambda s: quality_focal(s, teacher, beta), student)
    np.testing.assert_allclose(value, reference(student, teacher, beta), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, beta), student)
    np.testing.assert_allclose(gradient, slope, atol=2e-5 * np.abs(slope).max())


def test_known_value():
    # Scores of 1/2 and 3/4: a distance of 1/4, and log 2 whatever the target is.
    teacher = np.array([[np.log(3.0), 0.0]])
    np.testing.assert_allclose(quality_focal(np.zeros((1, 2)), teacher, 1.0), [np.log(2) / 4 / 2], rtol=1e-5)


def test_confident_background_has_almost_no_loss():
    # The cross-entropy to a target of 1/2 would be log 2 in spite of equal scores.
    np.testing.assert_array_equal(quality_focal(np.array([[0.0, -12.0]]), np.array([[0.0, -12.0]])), [0.0])
    assert quality_focal(np.array([[-12.0]]), np.array([[-11.0]]))[0] < 1e-8
