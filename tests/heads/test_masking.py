import numpy as np
import pytest

from keras_distill.heads import Masking
from keras_distill.heads.masking import kept
from tests.support.helpers import features


def generated_from_ones(head, batch=64, size=8, channels=16):
    """Return the output for a map of ones in training, with convolutions that are the identity."""
    shape = (batch, size, size, channels)
    head.build((None, *shape[1:]), (None, *shape[1:]))
    identity = np.zeros(head.first.kernel.shape, "float32")
    identity[1, 1] = np.eye(channels)
    for layer in (head.first, head.second):
        layer.kernel.assign(identity)
    return np.asarray(head(np.ones(shape, "float32"), training=True))


def test_masks_the_same_positions_in_all_channels():
    maps = generated_from_ones(Masking(ratio=0.65))
    assert set(np.unique(maps)) == {0.0, 1.0}
    np.testing.assert_array_equal(maps, np.repeat(maps[..., :1], 16, axis=-1))
    np.testing.assert_allclose(maps.mean(), 0.35, atol=0.03)


def test_masks_whole_channels():
    maps = generated_from_ones(Masking(ratio=0.25, channels=True))
    np.testing.assert_array_equal(maps, maps[:, :1, :1] * np.ones_like(maps))
    np.testing.assert_allclose(maps.mean(), 0.75, atol=0.06)


def test_masks_change_with_each_call_and_are_not_applied_in_inference():
    head = Masking(ratio=0.5)
    first = generated_from_ones(head)
    ones = np.ones_like(first)
    assert np.any(np.asarray(head(ones, training=True)) != first)
    np.testing.assert_array_equal(head(ones, training=False), ones)


def test_known_masks():
    np.testing.assert_array_equal(kept(np.array([0.1, 0.3, 0.5]), 0.6), [1, 1, 0])
    np.testing.assert_array_equal(kept(np.array([0.1, 0.3, 0.5]), 0.3, channels=True), [0, 1, 1])


def test_has_a_1x1_convolution_only_where_channels_differ():
    same, other = Masking(), Masking()
    same.build((None, 4, 4, 3), (None, 4, 4, 3))
    other.build((None, 4, 4, 3), (None, 6, 6, 5))
    assert (len(same.weights), len(other.weights)) == (4, 6)
    assert other(features(2, 4, 4, 3), training=True).shape == (2, 6, 6, 5)


@pytest.mark.parametrize("ratio", [1.0, -0.1])
def test_invalid_ratios_raise(ratio):
    with pytest.raises(ValueError, match="`ratio` must be a finite number >= 0 and < 1"):
        Masking(ratio)
