import numpy as np
import pytest

from keras_distill.losses import ChannelWiseKD
from keras_distill.losses.channel_wise_kd import channel_wise_kd
from tests.support.helpers import central_differences, features, softened_kl, value_and_gradient


def reference(student, teacher, temperature):
    """The paper's loss: a divergence over positions for each channel."""
    channels = [np.moveaxis(f.reshape(len(f), -1, f.shape[-1]), -1, 1) for f in (student, teacher)]
    return softened_kl(*channels, temperature).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 4, 5)])
def test_matches_the_paper(shape, temperature):
    student, teacher = features(*shape), features(*shape, seed=1)
    value, gradient = value_and_gradient(lambda s: channel_wise_kd(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, temperature), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, temperature), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Two positions. First channel: equal in the student, odds of 3 to 1 in the teacher. Second channel: no difference.
    teacher = np.array([[[np.log(3.0), 7.0], [0.0, 7.0]]])
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    np.testing.assert_allclose(channel_wise_kd(np.zeros((1, 2, 2)), teacher, 1.0), [expected / 2], rtol=1e-5)


def test_ignores_an_offset_of_a_channel():
    student, teacher = features(2, 3, 3, 4), features(2, 3, 3, 4, seed=1)
    shift = np.array([1.0, -2.0, 3.0, 0.0])
    np.testing.assert_allclose(channel_wise_kd(student + shift, teacher), channel_wise_kd(student, teacher), rtol=1e-4)


def test_vectors_raise():
    with pytest.raises(ValueError, match="ChannelWiseKD compares activations of rank 3 or more"):
        ChannelWiseKD().build((None, 5), (None, 5))
