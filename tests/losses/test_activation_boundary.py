import numpy as np

from keras_distill.losses.activation_boundary import activation_boundary
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher, margin):
    """Equation 5 of the paper, with its indicators as numbers; the sum is a mean here."""
    active = (teacher > 0).astype("float64")
    push_up, push_down = np.maximum(margin - student, 0), np.maximum(margin + student, 0)
    return ((active * push_up + (1 - active) * push_down) ** 2).mean()


def test_matches_the_paper():
    student, teacher = features(2, 3, 4, 5), features(2, 3, 4, 5, seed=1)
    value, gradient = value_and_gradient(lambda s: activation_boundary(s, teacher, 0.7), student)
    np.testing.assert_allclose(value, reference(student, teacher, 0.7), rtol=1e-5)
    np.testing.assert_allclose(gradient, central_differences(lambda s: reference(s, teacher, 0.7), student), atol=1e-6)


def test_known_value():
    # Teacher active: 3 exceeds the margin, 0.5 is 0.5 below it. Inactive: -3 exceeds the margin, 1 is 2 above it.
    loss = activation_boundary(np.array([[3.0, 0.5, -3.0, 1.0]]), np.array([[0.1, 9.0, -0.1, 0.0]]))
    np.testing.assert_allclose(loss, [(0.5**2 + 2**2) / 4])


def test_depends_on_the_teachers_signs_only():
    student, teacher = features(3, 4), features(3, 4, seed=1)
    np.testing.assert_array_equal(activation_boundary(student, 9 * teacher), activation_boundary(student, teacher))
