import keras
import numpy as np
import pytest

from keras_distill.losses import CosineSimilarity
from keras_distill.losses.cosine_similarity import cosine_similarity
from keras_distill.schedules import CosineDecay
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """1 minus the cosine, by its definition."""
    lengths = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return (1 - (student * teacher).sum(axis=-1) / lengths).mean()


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (2, 3, 4, 5)])
def test_matches_the_paper(shape):
    student, teacher = features(*shape), features(*shape, seed=1)
    value, gradient = value_and_gradient(lambda s: cosine_similarity(s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    student = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    teacher = np.array([[5.0, 0.0], [1.0, 1.0], [-3.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(cosine_similarity(student, teacher), [0.0, 1 - np.sqrt(0.5), 2.0, 1.0], rtol=1e-6)


def test_is_accurate_at_a_small_angle():
    # 1 - cos is 5e-9, below the resolution of float32 at 1.
    loss = cosine_similarity(np.array([[1.0, 1e-4]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(loss, [5e-9], rtol=1e-3)


def test_ignores_length():
    student, teacher = features(3, 4), features(3, 4, seed=1)
    np.testing.assert_allclose(
        cosine_similarity(1e10 * student, 1e-10 * teacher), cosine_similarity(student, teacher), rtol=1e-5
    )


def test_is_serialized_apart_from_the_cosine_schedule():
    for instance in (CosineSimilarity(), CosineDecay(1.0, 0.0, 10)):
        restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(instance))
        assert type(restored) is type(instance)
