import math

import keras
import numpy as np
import pytest

from keras_distill.metrics import TeacherDivergence
from tests.support.helpers import features, softened_kl


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 5)])
def test_matches_a_transcription_in_float64(temperature, shape):
    student, teacher = features(*shape, scale=3), features(*shape, seed=1, scale=3)
    metric = TeacherDivergence(temperature)
    for rows in (slice(3), slice(3, 8)):
        metric.update_state(student[rows], teacher[rows])
    expected = softened_kl(student, teacher, temperature).mean() / temperature**2
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)


def test_worked_by_hand():
    # At T = 2 the teacher has the probabilities 1/2, 1/2 and the student 1/4, 3/4.
    metric = TeacherDivergence(2.0)
    metric.update_state(np.float32([[0, 2 * math.log(3)], [7, 7]]), np.float32([[0, 0], [7, 7]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    np.testing.assert_allclose(metric.result(), expected / 2, rtol=1e-6)


def test_is_zero_for_equal_probabilities_and_before_any_batch():
    metric = TeacherDivergence()
    assert metric.result() == 0
    metric.update_state(features(8, 5), features(8, 5) + 3)
    np.testing.assert_allclose(metric.result(), 0, atol=1e-6)


def test_config_round_trip():
    restored = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(TeacherDivergence(3.0, name="far"))
    )
    assert (restored.temperature, restored.name) == (3.0, "far")


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), None])
def test_rejects_invalid_temperatures(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a finite number > 0"):
        TeacherDivergence(temperature)
