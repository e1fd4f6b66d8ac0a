import numpy as np
import pytest

from keras_distill.metrics import Acceptance
from tests.support.helpers import features, softmax


def reference(student, teacher, temperature=1.0):
    return np.minimum(softmax(student, temperature), softmax(teacher, temperature)).sum(axis=-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_definition(shape, temperature):
    student, teacher = features(*shape, scale=2), features(*shape, seed=1, scale=2)
    metric = Acceptance(temperature)
    for rows in (slice(0, 1), slice(1, None)):
        metric.update_state(student[rows], teacher[rows])
    np.testing.assert_allclose(metric.result(), reference(student, teacher, temperature).mean(), rtol=1e-5)


def test_weights_of_tokens():
    student, teacher = features(2, 3, 6), features(2, 3, 6, seed=1)
    weight = np.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]], "float32")
    metric = Acceptance()
    metric.update_state(student, teacher, sample_weight=weight)
    np.testing.assert_allclose(metric.result(), np.average(reference(student, teacher), weights=weight), rtol=1e-5)


def test_masked_words_are_never_accepted():
    student = np.array([[0.0, 0.0, -np.inf]], "float32")
    metric = Acceptance()
    metric.update_state(student, np.array([[0.0, -1e9, 0.0]], "float32"))
    np.testing.assert_allclose(metric.result(), 0.5, rtol=1e-6)


def test_rejects_an_invalid_temperature():
    with pytest.raises(ValueError, match="`temperature` must be a finite number >= 0. Received: -1"):
        Acceptance(-1)
