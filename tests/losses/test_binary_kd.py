import numpy as np
import pytest

from keras_distill.losses.binary_kd import binary_kd
from keras_distill.losses.kl_divergence import kl_divergence
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher, temperature):
    """Binary cross-entropy with soft targets minus its value at the teacher, times T^2."""

    def log_sigmoid(logits):
        return -np.logaddexp(0, -logits)

    def cross_entropy(logits, targets):
        p = 1 / (1 + np.exp(-targets / temperature))
        return -(p * log_sigmoid(logits / temperature) + (1 - p) * log_sigmoid(-logits / temperature)).mean(axis=-1)

    student, teacher = np.float64(student), np.float64(teacher)
    return temperature**2 * (cross_entropy(student, teacher) - cross_entropy(teacher, teacher))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(4, 6), (5, 1), (2, 3, 6)])
def test_matches_the_formula(shape, temperature):
    student, teacher = features(*shape, scale=2), features(*shape, seed=1, scale=2)
    value, gradient = value_and_gradient(lambda s: binary_kd(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # The student has probabilities 1/2 and 1/2, the teacher 3/4 and 1/2.
    teacher = np.array([[np.log(3.0), 0.0]])
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    np.testing.assert_allclose(binary_kd(np.zeros((1, 2)), teacher), [expected / 2], rtol=1e-6)


def test_finite_for_opposite_confident_predictions():
    # The loss is the difference of the logits; log(1 - p) would be log 0 in float32.
    np.testing.assert_allclose(binary_kd(np.array([[200.0]]), np.array([[-200.0]])), [200.0], rtol=1e-6)


def test_one_label_equals_two_classes():
    student, teacher = features(3, 2), features(3, 2, seed=1)
    difference = (logits[:, :1] - logits[:, 1:] for logits in (student, teacher))
    np.testing.assert_allclose(binary_kd(*difference, 2.0), kl_divergence(student, teacher, 2.0), rtol=1e-5)


def test_labels_are_independent():
    student, teacher = features(3, 4), features(3, 4, seed=1)
    each = [binary_kd(student[:, i : i + 1], teacher[:, i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(binary_kd(student, teacher), np.mean(each, axis=0), rtol=1e-5)
