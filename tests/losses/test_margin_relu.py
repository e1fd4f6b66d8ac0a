import keras
import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import MarginReLU
from keras_distill.losses.margin_relu import margin_relu, negative_mean
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher, margin):
    """The margin ReLU and partial distance of the paper, entry by entry; the sum is a mean here."""
    total = 0.0
    for index in np.ndindex(*student.shape):
        s, t = student[index], max(teacher[index], margin[index[-1]])
        total += 0.0 if s <= t <= 0 else (s - t) ** 2
    return total / student.size


def test_matches_the_paper():
    student, teacher, margin = features(2, 3, 4, 5), features(2, 3, 4, 5, seed=1), -np.arange(1, 6) / 5
    value, gradient = value_and_gradient(lambda s: margin_relu(s, teacher, margin), student)
    np.testing.assert_allclose(value, reference(student, teacher, margin), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, margin), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Inactive in both: 0. Above the margin in the student only: distance to it. Active in the teacher: difference.
    loss = margin_relu(np.array([[-3.0, 0.5, -1.0]]), np.array([[-9.0, -9.0, 2.0]]), -0.5)
    np.testing.assert_allclose(loss, [(0 + 1**2 + 3**2) / 3])


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 0.0), (2.0, -1.0), (-0.5, 0.7)])
def test_the_margin_is_the_mean_of_negative_values(gamma, beta):
    x = np.linspace(-40, 0, 400_001)
    density = np.exp(-(((x - beta) / gamma) ** 2) / 2)
    np.testing.assert_allclose(negative_mean(gamma, beta), (x * density).sum() / density.sum(), rtol=1e-3)


def test_margins_of_channels_that_are_rarely_negative_or_constant():
    np.testing.assert_allclose(negative_mean([-0.5, 0.0, 0.0], [9.0, -2.0, 3.0]), [-1.5, -2.0, 0.0])


def test_takes_the_weights_of_a_batch_normalization():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 4))
    layer.gamma.assign([1.0, 2.0, 0.5, -1.0])
    layer.beta.assign([0.0, 1.0, -1.0, 0.5])
    loss = MarginReLU(layer.gamma, layer.beta)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    student, teacher = features(3, 4), features(3, 4, seed=1)
    expected = margin_relu(student, teacher, negative_mean([1.0, 2.0, 0.5, -1.0], [0.0, 1.0, -1.0, 0.5]))
    np.testing.assert_allclose(restored.compare(student, teacher, Batch(None)), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="`gamma` and `beta` of 4 channels, but compares activations of 5"):
        loss.build((None, 5), (None, 5))
