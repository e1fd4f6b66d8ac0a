import numpy as np
import pytest

from keras_distill.losses.pearson_kd import pearson_kd
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """(N - 1) / N times 1 minus the correlation of each channel over all positions, by NumPy's function."""
    student, teacher = (f.reshape(-1, f.shape[-1]) for f in (student, teacher))
    correlations = [np.corrcoef(student[:, c], teacher[:, c])[0, 1] for c in range(student.shape[1])]
    return (1 - np.mean(correlations)) * (len(student) - 1) / len(student)


@pytest.mark.parametrize("shape", [(6, 3), (3, 5, 4), (2, 3, 4, 5)])
def test_matches_the_paper(shape):
    student, teacher = features(*shape), 3 + features(*shape, seed=1)
    value, gradient = value_and_gradient(lambda s: pearson_kd(s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Standardized: -1, 0, 1 against 1, 0, -1.
    student, teacher = np.array([[1.0], [2.0], [3.0]]), np.array([[30.0], [20.0], [10.0]])
    np.testing.assert_allclose(pearson_kd(student, teacher), [2.0, 0.0, 2.0], rtol=1e-5, atol=1e-10)


def test_ignores_scale_and_shift_of_each_channel():
    student = features(2, 3, 3, 4)
    scale, shift = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, -5.0, 1.0, 2.0])
    np.testing.assert_allclose(pearson_kd(scale * student + shift, student), np.zeros((2, 3, 3)), atol=1e-9)


def test_a_constant_channel_has_no_gradient():
    student = features(2, 3, 3, 4)
    student[..., 0] = 0.1
    _, gradient = value_and_gradient(lambda s: pearson_kd(s, features(2, 3, 3, 4, seed=1)), student)
    assert not np.any(gradient[..., 0]) and np.any(gradient[..., 1])
    assert np.abs(gradient).max() < 1


def test_padding_does_not_change_mean_and_deviation():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    weight = np.array([[1, 1, 0], [1, 0, 0]])
    expected = pearson_kd(student[weight > 0], teacher[weight > 0])
    np.testing.assert_allclose(np.asarray(pearson_kd(student, teacher, weight))[weight > 0], expected, rtol=1e-5)
