import numpy as np
import pytest

from keras_distill.heads import Masking
from keras_distill.heads.masking import kept
from tests.support.helpers import features


def generated_from_ones(head, batch=64, size=8, channels=16):
    """What the head makes of a map of ones in training, when its convolutions do nothing."""
    shape = (batch, size, size, channels)
    head.build((None, *shape[1:]), (None, *shape[1:]))
    centre = np.zeros(head.first.kernel.shape, "float32")
    centre[1, 1] = np.eye(channels)
    for layer in (head.first, head.second):
        layer.kernel.assign(centre)
    return np.asarray(head(np.ones(shape, "float32"), training=True))


def test_hides_positions_in_all_channels_alike():
    maps = generated_from_ones(Masking(ratio=0.65))
    assert set(np.unique(maps)) == {0.0, 1.0}
    np.testing.assert_array_equal(maps, np.repeat(maps[..., :1], 16, axis=-1))
    np.testing.assert_allclose(maps.mean(), 0.35, atol=0.03)


def test_hides_whole_channels():
    maps = generated_from_ones(Masking(ratio=0.25, channels=True))
    np.testing.assert_array_equal(maps, maps[:, :1, :1] * np.ones_like(maps))
    np.testing.assert_allclose(maps.mean(), 0.75, atol=0.06)


def test_hides_other_entries_each_time_and_none_outside_of_training():
    head = Masking(ratio=0.5)
    first = generated_from_ones(head)
    ones = np.ones_like(first)
    assert np.any(np.asarray(head(ones, training=True)) != first)
    np.testing.assert_array_equal(head(ones, training=False), ones)


def test_known_draw():
    np.testing.assert_array_equal(kept(np.array([0.1, 0.3, 0.5]), 0.6), [1, 1, 0])
    np.testing.assert_array_equal(kept(np.array([0.1, 0.3, 0.5]), 0.3, channels=True), [0, 1, 1])


def test_aligns_only_where_channels_differ():
    same, other = Masking(), Masking()
    same.build((None, 4, 4, 3), (None, 4, 4, 3))
    other.build((None, 4, 4, 3), (None, 6, 6, 5))
    assert (len(same.weights), len(other.weights)) == (4, 6)
    assert other(features(2, 4, 4, 3), training=True).shape == (2, 6, 6, 5)


@pytest.mark.parametrize("ratio", [1.0, -0.1])
def test_impossible_shares_are_refused(ratio):
    with pytest.raises(ValueError, match="`ratio` must be at least 0 and below 1"):
        Masking(ratio)
