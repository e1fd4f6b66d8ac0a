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
    for part in (slice(3), slice(3, 8)):
        metric.update_state(student[part], teacher[part])
    expected = softened_kl(student, teacher, temperature).mean() / temperature**2
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)


def test_worked_by_hand():
    # At T = 2 these are the probabilities 1/2, 1/2 of the teacher and 1/4, 3/4 of the student.
    metric = TeacherDivergence(2.0)
    metric.update_state(np.float32([[0, 2 * math.log(3)], [7, 7]]), np.float32([[0, 0], [7, 7]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    np.testing.assert_allclose(metric.result(), expected / 2, rtol=1e-6)


def test_is_zero_for_the_teacher_itself_and_before_any_batch():
    metric = TeacherDivergence()
    assert metric.result() == 0
    metric.update_state(features(8, 5), features(8, 5) + 3)
    np.testing.assert_allclose(metric.result(), 0, atol=1e-6)


def test_comes_back_from_its_config():
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(TeacherDivergence(3.0, name="far"))
    )
    assert (again.temperature, again.name) == (3.0, "far")


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), None])
def test_refuses_what_is_no_temperature(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a finite number above 0"):
        TeacherDivergence(temperature)
