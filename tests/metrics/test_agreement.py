import keras
import numpy as np
import pytest

from keras_distill.metrics import Agreement
from keras_distill.metrics.agreement import agreement
from tests.support.helpers import features


def reference(student, teacher, k):
    """The teacher's class among the student's k largest, by a stable sort: of equal ones the first comes first."""
    order = np.argsort(-student.astype("float64"), axis=-1, kind="stable")[..., :k]
    return (order == np.argmax(teacher, axis=-1)[..., None]).any(-1)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("shape", [(50, 7), (9, 4, 7)])
def test_matches_a_sort(k, shape):
    # Rounded, so that many classes are equally probable; without -0, which Keras takes for less than 0.
    student, teacher = np.round(features(*shape)) + 0, np.round(features(*shape, seed=1)) + 0
    np.testing.assert_array_equal(agreement(student, teacher, k), reference(student, teacher, k))


def test_worked_by_hand():
    teacher = np.float32([[3, 1, 0], [0, 2, 1], [0, 1, 2], [5, 0, 0]])
    student = np.float32([[9, 8, 7], [1, 0.5, 0], [3, 2, 1], [0, 1, 2]])
    np.testing.assert_array_equal(agreement(student, teacher), [1, 0, 0, 0])
    np.testing.assert_array_equal(agreement(student, teacher, 2), [1, 1, 0, 0])


def test_a_student_that_says_nothing_or_nan_does_not_agree():
    teacher = np.float32([[0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(agreement(np.float32([[0, 0, 0], [np.nan] * 3]), teacher), [0, 0])
    np.testing.assert_array_equal(agreement(np.float32([[1, np.nan, 0]]), teacher[:1], 2), [0])


def test_is_the_mean_over_all_batches_by_weight():
    student, teacher = features(10, 4), features(10, 4, seed=1)
    weight = np.arange(10, dtype="float32")
    metric = Agreement()
    for part in (slice(7), slice(7, 10)):
        metric.update_state(student[part], teacher[part], weight[part])
    same = student.argmax(-1) == teacher.argmax(-1)
    assert 0 < same.sum() < 10
    np.testing.assert_allclose(metric.result(), (same * weight).sum() / weight.sum(), rtol=1e-6)


def test_positions_count_alike_and_those_of_no_weight_may_be_nan():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    same = student.argmax(-1) == teacher.argmax(-1)
    metric = Agreement()
    metric.update_state(student, teacher)
    np.testing.assert_allclose(metric.result(), same.mean())
    metric.reset_state()
    teacher[0, 0] = np.nan
    metric.update_state(student, teacher, np.float32([[0, 1, 1], [1, 1, 1]]))
    np.testing.assert_allclose(metric.result(), same.ravel()[1:].mean())


def test_says_what_it_is_in_the_logs_and_comes_back_from_its_config():
    assert (Agreement().name, Agreement(k=5).name, Agreement(5, name="a").name) == ("agreement", "top_5_agreement", "a")
    metric = Agreement(2, student="logits", teacher="b/logits", mask="padding")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (again.k, again.student, again.teacher, again.mask) == (2, "logits", "b/logits", "padding")


@pytest.mark.parametrize("k", [0, 1.5, True, "2"])
def test_refuses_what_is_no_number_of_classes(k):
    with pytest.raises(ValueError, match="`k` must be an integer of 1 or more"):
        Agreement(k)


def test_refuses_labels_in_the_place_of_logits():
    with pytest.raises(ValueError, match=r"compares logits of the same classes. Received: student .* of shape \(4,\)"):
        Agreement().update_state(np.arange(4), features(4, 3))
