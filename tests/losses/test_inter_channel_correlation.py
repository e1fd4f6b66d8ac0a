import numpy as np
import pytest

from keras_distill.losses import InterChannelCorrelation
from keras_distill.losses.inter_channel_correlation import inter_channel_correlation
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """The paper's mean squared difference of correlation matrices, a loop over pairs of channels."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        s, t = (list(f.reshape(-1, f.shape[-1]).T) for f in (s, t))
        for i in range(len(s)):
            rows = [np.array([f[i] @ channel for channel in f]) for f in (s, t)]
            a, b = (row / np.sqrt((row**2).sum()) for row in rows)
            values.append(((a - b) ** 2).mean())
    return np.mean(values)


@pytest.mark.parametrize(("shape", "other"), [((3, 5, 4), (3, 6, 4)), ((2, 3, 4, 5), (2, 2, 2, 5))])
def test_matches_the_paper(shape, other):
    student, teacher = features(*shape), features(*other, seed=1)
    value, gradient = value_and_gradient(lambda s: inter_channel_correlation(s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Two orthogonal channels against two equal ones: rows (1, 0) and (1, 1) / sqrt 2.
    half = np.sqrt(0.5)
    loss = inter_channel_correlation(np.eye(2)[None], np.ones((1, 2, 2)))
    np.testing.assert_allclose(loss, [((1 - half) ** 2 + half**2) / 2], rtol=1e-6)


def test_ignores_the_order_of_the_positions():
    student, teacher = features(2, 5, 4), features(2, 5, 4, seed=1)
    np.testing.assert_allclose(
        inter_channel_correlation(student[:, ::-1], teacher), inter_channel_correlation(student, teacher), rtol=1e-5
    )


def test_a_dead_channel_has_a_small_gradient():
    # The published code's gradient is 1e11 here.
    student = features(2, 5, 4)
    student[..., 0] = 0
    _, gradient = value_and_gradient(lambda s: inter_channel_correlation(s, features(2, 5, 4, seed=1)), student)
    assert np.abs(gradient).max() < 1


def test_needs_the_same_number_of_channels_at_any_size():
    loss = InterChannelCorrelation()
    assert loss.comparable((None, 8, 8, 3), (None, 4, 4, 3))
    assert not loss.comparable((None, 8, 8, 3), (None, 8, 8, 4))
    with pytest.raises(ValueError, match="InterChannelCorrelation compares activations of rank 3 or more"):
        loss.build((None, 5), (None, 5))
