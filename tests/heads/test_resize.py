import numpy as np
import pytest

from keras_distill.heads import Resize
from tests.support.helpers import features


def resized(maps, size):
    head = Resize()
    head.build((None, *maps.shape[1:]), (None, *size, 7))
    assert head.weights == []
    return np.asarray(head(maps))


def test_interpolates_between_pixel_centers():
    ramp = np.array([[[[0.0], [3.0], [6.0]]]])
    np.testing.assert_allclose(resized(ramp, (1, 2))[0, 0, :, 0], [0.75, 5.25])
    np.testing.assert_allclose(resized(ramp, (2, 3))[0, :, :, 0], [[0.0, 3.0, 6.0]] * 2)


def test_resizes_each_channel_and_does_not_change_the_same_size():
    maps = features(2, 3, 4, 5)
    np.testing.assert_array_equal(resized(maps, (3, 4)), maps)
    np.testing.assert_allclose(resized(maps, (6, 9))[..., 2:3], resized(maps[..., 2:3], (6, 9)), rtol=1e-6)


def test_other_shapes_raise():
    message = r"Resize takes series, feature maps or volumes.*teacher shape \(None, 4, 4, 3\)"
    with pytest.raises(ValueError, match=message):
        Resize().build((None, 3), (None, 4, 4, 3))
