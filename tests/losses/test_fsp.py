import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import FSP
from keras_distill.losses.fsp import fsp
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student_first, student_second, teacher_first, teacher_second):
    """The FSP matrix of the paper, a loop over positions; the sum over the matrix is a mean here."""

    def fsp_matrix(first, second):
        first, second = (f.reshape(-1, f.shape[-1]) for f in (first, second))
        return sum(np.outer(a, b) for a, b in zip(first, second, strict=True)) / len(first)

    examples = zip(student_first, student_second, teacher_first, teacher_second, strict=True)
    return np.mean([((fsp_matrix(a, b) - fsp_matrix(c, d)) ** 2).mean() for a, b, c, d in examples])


def test_matches_the_paper():
    first, second = features(2, 3, 4, 5), features(2, 3, 4, 2, seed=1)
    teacher = features(2, 6, 2, 5, seed=2), features(2, 6, 2, 2, seed=3)
    value, gradient = value_and_gradient(lambda s: fsp(s, second, *teacher), first)
    np.testing.assert_allclose(value, reference(first, second, *teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, second, *teacher), first)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())
    _, gradient = value_and_gradient(lambda s: fsp(first, s, *teacher), second)
    slope = central_differences(lambda s: reference(first, s, *teacher), second)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Two positions: products 1*3 + 2*4 = 11 and 1*5 + 2*6 = 17, halved, against 0.
    first, second = np.array([[[1.0], [2.0]]]), np.array([[[3.0, 5.0], [4.0, 6.0]]])
    loss = fsp(first, second, 0 * first, second)
    np.testing.assert_allclose(loss, [(5.5**2 + 8.5**2) / 2], rtol=1e-6)


def test_average_pools_the_larger_layer():
    first, second = features(2, 4, 4, 3), features(2, 2, 2, 5, seed=1)
    teacher = features(2, 2, 2, 3, seed=2), features(2, 2, 2, 5, seed=3)
    smaller = first.reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    loss = fsp(smaller, second, *teacher)
    np.testing.assert_allclose(fsp(first, second, *teacher), loss, rtol=1e-5)


def test_ignores_the_order_of_the_positions():
    student, teacher = (features(2, 6, 3), features(2, 6, 4, seed=1)), (features(2, 5, 3), features(2, 5, 4, seed=2))
    backwards = [f[:, ::-1] for f in student]
    np.testing.assert_allclose(fsp(*backwards, *teacher), fsp(*student, *teacher), rtol=1e-5)


def test_class_takes_a_pair_or_pairs_one_layer_with_itself():
    first, second, teacher = features(2, 6, 3), features(2, 6, 3, seed=1), features(2, 6, 3, seed=2)
    weight = np.array([[1.0] * 4 + [0.0] * 2] * 2)
    loss, batch = FSP(), Batch(None, position_weight=weight)
    expected = fsp(first[:, :4], second[:, :4], second[:, :4], teacher[:, :4])
    np.testing.assert_allclose(loss.compare((first, second), (second, teacher), batch), expected, rtol=1e-5)
    expected = fsp(first, first, teacher, teacher)
    np.testing.assert_allclose(loss.compare(first, teacher, Batch(None)), expected, rtol=1e-6)


def test_needs_the_same_number_of_channels_at_any_size():
    loss = FSP()
    assert loss.comparable((None, 8, 8, 3), (None, 4, 4, 3))
    assert not loss.comparable((None, 8, 8, 3), (None, 8, 8, 4))
    pair = ((None, 8, 8, 3), (None, 4, 4, 5))
    loss.build(pair, pair)
    assert loss.comparable(pair, pair)
    assert not loss.comparable(pair, pair[::-1])
    with pytest.raises(ValueError, match="FSP compares activations of rank 3 or more"):
        loss.build((None, 5), (None, 5))
