import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.losses import TokenSimilarity
from keras_distill.losses.token_similarity import token_similarity
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, temperature):
    values = []
    for s, t in zip(student, teacher, strict=True):
        similarities = []
        for tokens in (s, t):
            tokens = tokens.reshape(-1, tokens.shape[-1]).astype("float64")
            tokens = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
            similarities.append(softmax(tokens @ tokens.T, temperature))
        q, p = similarities
        values.append((p * np.log(p / q)).sum(-1).mean())
    return np.mean(values)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 2, 3, 4)])
def test_matches_the_formula(shape, temperature):
    student, teacher = features(*shape), features(*shape[:-1], 7, seed=1)
    assert token_similarity(student, teacher, temperature).shape == shape[:-1]
    value, gradient = value_and_gradient(lambda s: token_similarity(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, temperature), rtol=1e-4)
    slope = central_differences(lambda s: reference(s, teacher, temperature), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_known_value():
    # Two positions, orthogonal in the teacher (odds of 3 to 1 for the position itself), equal in the student.
    loss = token_similarity(np.ones((1, 2, 3)), np.eye(2)[None], 1 / np.log(3.0))
    np.testing.assert_allclose(loss, [[0.75 * np.log(1.5) + 0.25 * np.log(0.5)] * 2], rtol=1e-5)


def test_ignores_rotation_and_length_of_the_features():
    student, rotation = features(2, 5, 4), np.linalg.qr(features(4, 4, seed=2))[0]
    length = 1 + np.abs(features(2, 5, 1, seed=3))
    np.testing.assert_allclose(token_similarity(student, length * (student @ rotation), 1.0), 0, atol=1e-10)


def test_a_student_of_other_channels_and_resolution_has_a_head():
    def backbone(channels, stride, name):
        layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(channels, 3, stride, "same", name="map")]
        return keras.Sequential(layers, name=name)

    term = Term(TokenSimilarity(), "map", "map", head="auto", name="local")
    distiller = Distiller(student=backbone(4, 4, "student"), teacher=backbone(6, 2, "teacher"), terms=[term])
    distiller.compile("adam")
    assert np.isfinite(distiller.fit(features(4, 8, 8, 3), verbose=0).history["local_loss"]).all()


def test_vectors_raise():
    with pytest.raises(ValueError, match="TokenSimilarity compares activations of rank 3 or more"):
        TokenSimilarity().build((None, 5), (None, 5))
