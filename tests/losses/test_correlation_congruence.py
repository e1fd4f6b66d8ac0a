import math

import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import CorrelationCongruence
from keras_distill.losses.correlation_congruence import correlation_congruence
from tests.support.helpers import central_differences, features, value_and_gradient


def directions(*shape, seed=0):
    rows = features(*shape, seed=seed)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference(student, teacher, gamma, order):
    """The paper's loss with the Taylor series of the Gaussian kernel, a loop over pairs."""

    def kernel(x, y):
        if gamma is None:
            return x @ y
        terms = [(2 * gamma) ** p / math.factorial(p) * (x @ y) ** p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(terms)

    pairs = [(i, j) for i in range(len(student)) for j in range(len(student))]
    total = sum((kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for i, j in pairs)
    return total / len(student) ** 2


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 1), (0.4, 2), (2.0, 5), (None, 2)])
def test_matches_the_paper(gamma, order):
    student, teacher = directions(5, 4), directions(5, 7, seed=1)
    value, gradient = value_and_gradient(lambda s: correlation_congruence(s, teacher, gamma, order), student)
    np.testing.assert_allclose(value, reference(student, teacher, gamma, order), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, gamma, order), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Orthogonal examples in the student, equal ones in the teacher: a kernel of e^-2 against e^-2 (1 + 2).
    student, teacher = np.eye(2), np.ones((2, 1))
    expected = (2 * math.exp(-2)) ** 2 / 2
    np.testing.assert_allclose(correlation_congruence(student, teacher, gamma=1.0, order=1), [expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(correlation_congruence(student, teacher, gamma=None), [0.5, 0.5], rtol=1e-6)


def test_a_long_series_equals_the_gaussian():
    student, teacher = directions(4, 3), directions(4, 5, seed=1)

    def gaussian(rows):
        return np.exp(-0.7 * ((rows[:, None] - rows[None]) ** 2).sum(axis=-1))

    expected = ((gaussian(student) - gaussian(teacher)) ** 2).mean(axis=1)
    np.testing.assert_allclose(correlation_congruence(student, teacher, gamma=0.7, order=12), expected, rtol=1e-4)


def test_class_ignores_scale_and_rotation_of_the_embeddings():
    student, rotation = features(6, 8), np.linalg.qr(features(8, 8, seed=2))[0]
    loss = CorrelationCongruence().compare(student, 3 * student @ rotation, Batch(None))
    np.testing.assert_allclose(loss, np.zeros(6), atol=1e-10)


@pytest.mark.parametrize("order", [0, 1.5, True])
def test_invalid_orders_raise(order):
    with pytest.raises(ValueError, match="`order` must be an integer >= 1"):
        CorrelationCongruence(order=order)
