import numpy as np

from keras_distill.data.batch import Batch
from keras_distill.losses import MaskedGenerative
from keras_distill.losses.masked_generative import masked_generative
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(generated, teacher):
    """Equation 3 of the paper: sum over channels, rows and columns, then mean over the examples."""
    return np.mean([((g.astype("float64") - t) ** 2).sum() for g, t in zip(generated, teacher)])


def test_matches_the_paper():
    student, teacher = features(2, 3, 4, 5), features(2, 3, 4, 5, seed=1)
    value, gradient = value_and_gradient(lambda s: MaskedGenerative().compare(s, teacher, Batch(None)), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    loss = masked_generative(np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[[1.0, 4.0], [0.0, 2.0]]]))
    np.testing.assert_allclose(loss, [[4.0, 13.0]])


def test_is_a_sum_over_positions_that_are_not_padded():
    student, teacher = np.ones((2, 4, 3), "float32"), np.zeros((2, 4, 3), "float32")
    weight = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    loss = MaskedGenerative().compare(student, teacher, Batch(None, position_weight=weight))
    np.testing.assert_allclose(loss, [12.0, 3.0])
