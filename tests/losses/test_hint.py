import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import Hint
from keras_distill.losses.hint import hint
from tests.support.helpers import central_differences, features, value_and_gradient

pytestmark = pytest.mark.everyday


def reference(student, teacher):
    """Equation 3 of the paper, as a mean instead of half the sum."""
    return ((teacher - student) ** 2).mean()


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (2, 3, 4, 5)])
def test_matches_the_paper(shape):
    student, teacher = features(*shape), features(*shape, seed=1)
    value, gradient = value_and_gradient(lambda s: Hint().compare(s, teacher, Batch(None)), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-6)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-7)


def test_known_value():
    student = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    teacher = np.array([[[1.0, 4.0], [0.0, 4.0]]])
    np.testing.assert_allclose(hint(student, teacher), [[2.0, 4.5]])


def test_padded_positions_are_excluded():
    student, teacher = features(2, 3, 4), np.zeros((2, 3, 4))
    weight = np.array([[1, 1, 0], [1, 1, 1]])
    loss = Hint().compare(student, teacher, Batch(None, position_weight=weight))
    np.testing.assert_allclose(loss, [(student[0, :2] ** 2).mean(), (student[1] ** 2).mean()], rtol=1e-6)


def test_grows_with_the_square_of_the_features():
    student, teacher = features(3, 4), features(3, 4, seed=1)
    np.testing.assert_allclose(hint(3 * student, 3 * teacher), 9 * hint(student, teacher), rtol=1e-5)
