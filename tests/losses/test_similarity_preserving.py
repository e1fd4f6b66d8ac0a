import numpy as np
import pytest

from keras_distill.losses.similarity_preserving import similarity_preserving
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """Equations 1 to 4 of the paper, a loop over pairs."""
    total, batch = 0.0, len(student)
    for i in range(batch):
        rows = [np.array([np.vdot(f[i], f[j]) for j in range(batch)]) for f in (student, teacher)]
        student_row, teacher_row = (row / np.sqrt((row**2).sum()) for row in rows)
        total += ((teacher_row - student_row) ** 2).sum()
    return total / batch**2


@pytest.mark.parametrize("shape", [(6, 8), (4, 3, 5), (3, 2, 4, 3)])
def test_matches_the_paper(shape):
    student, teacher = features(*shape), features(shape[0], 11, seed=1)
    value, gradient = value_and_gradient(lambda s: similarity_preserving(s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Three orthogonal examples in the student; the first two are equal in the teacher.
    student, teacher = np.eye(3), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    half = np.sqrt(0.5)
    expected = ((1 - half) ** 2 + half**2) / 3
    np.testing.assert_allclose(similarity_preserving(student, teacher), [expected, expected, 0.0], atol=1e-7)


def test_ignores_scale_and_rotation_of_the_features():
    student, rotation = features(6, 8), np.linalg.qr(features(8, 8, seed=2))[0]
    np.testing.assert_allclose(similarity_preserving(student, 3 * student @ rotation), np.zeros(6), atol=1e-10)


def test_a_batch_of_one_has_no_loss():
    value, gradient = value_and_gradient(lambda s: similarity_preserving(s, features(1, 5, seed=1)), features(1, 4))
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_a_dead_example_has_a_small_gradient():
    # The published code divides by 1e-12 here.
    student = features(4, 5)
    student[0] = 0
    _, gradient = value_and_gradient(lambda s: similarity_preserving(s, features(4, 6, seed=1)), student)
    assert np.abs(gradient).max() < 1
