import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import LogitMSE
from keras_distill.losses.logit_mse import logit_mse
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """The squared norm of the paper, with the mean over the classes instead of half the sum."""
    return ((student - teacher) ** 2).mean()


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_paper(shape):
    student, teacher = features(*shape), features(*shape, seed=1)
    value, gradient = value_and_gradient(lambda s: logit_mse(s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-6)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-7)


def test_known_value():
    student, teacher = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 0.0, 4.0]])
    np.testing.assert_allclose(logit_mse(student, teacher), [5 / 3], rtol=1e-6)


def test_depends_on_a_shift_of_the_logits():
    logits = features(3, 4)
    np.testing.assert_allclose(logit_mse(logits + 2, logits), [4.0] * 3, rtol=1e-5)


def test_ignores_padded_tokens():
    student, teacher = features(1, 2, 4), features(1, 2, 4, seed=1)
    loss = LogitMSE().compare(student, teacher, Batch(None, position_weight=np.array([[1.0, 0.0]])))
    np.testing.assert_allclose(loss, logit_mse(student, teacher)[:, 0], rtol=1e-6)
