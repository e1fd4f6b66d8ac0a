import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import PatientKD
from keras_distill.losses.patient_kd import patient_kd
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """Equation 7 of the paper for one layer, as a mean over the examples."""
    pairs = [(s[0], t[0]) for s, t in zip(student, teacher)]
    return np.mean([((s / np.linalg.norm(s) - t / np.linalg.norm(t)) ** 2).sum() for s, t in pairs])


def test_matches_the_paper():
    student, teacher = features(3, 4, 5), features(3, 4, 5, seed=1)
    value, gradient = value_and_gradient(lambda s: PatientKD().compare(s, teacher, Batch(None)), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Unit vectors at a right angle, and opposite ones.
    loss = patient_kd(np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 5.0], [-2.0, -2.0]]))
    np.testing.assert_allclose(loss, [2.0, 4.0], rtol=1e-6)


def test_compares_the_direction_of_the_first_token_only():
    student, teacher = features(3, 4, 5), features(3, 4, 5, seed=1)
    np.testing.assert_allclose(patient_kd(3 * student[:, :1], teacher), patient_kd(student, teacher), rtol=1e-5)
    np.testing.assert_allclose(patient_kd(student[:, 0], teacher), patient_kd(student, teacher), rtol=1e-6)


def test_maps_raise():
    with pytest.raises(
        ValueError, match=r"PatientKD takes activations of shape \[batch, tokens, width\] or \[batch, width\]"
    ):
        PatientKD().build((None, 4, 4, 8), (None, 4, 4, 8))
