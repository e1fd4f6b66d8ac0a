import keras
import numpy as np
import pytest

from keras_distill.metrics import Agreement
from keras_distill.metrics.agreement import agreement
from tests.support.helpers import features


def reference(student, teacher, k):
    """Return whether the teacher's class is among the student's top k, by a stable sort."""
    order = np.argsort(-student.astype("float64"), axis=-1, kind="stable")[..., :k]
    return (order == np.argmax(teacher, axis=-1)[..., None]).any(-1)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("shape", [(50, 7), (9, 4, 7)])
def test_matches_a_sort(k, shape):
    # Rounded for ties. Adding 0 turns -0 into 0, because Keras sorts -0 below 0.
    student, teacher = np.round(features(*shape)) + 0, np.round(features(*shape, seed=1)) + 0
    np.testing.assert_array_equal(agreement(student, teacher, k), reference(student, teacher, k))


def test_worked_by_hand():
    teacher = np.float32([[3, 1, 0], [0, 2, 1], [0, 1, 2], [5, 0, 0]])
    student = np.float32([[9, 8, 7], [1, 0.5, 0], [3, 2, 1], [0, 1, 2]])
    np.testing.assert_array_equal(agreement(student, teacher), [1, 0, 0, 0])
    np.testing.assert_array_equal(agreement(student, teacher, 2), [1, 1, 0, 0])


def test_ties_and_nan_do_not_agree():
    teacher = np.float32([[0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(agreement(np.float32([[0, 0, 0], [np.nan] * 3]), teacher), [0, 0])
    np.testing.assert_array_equal(agreement(np.float32([[1, np.nan, 0]]), teacher[:1], 2), [0])


def test_weighted_mean_over_batches():
    student, teacher = features(10, 4), features(10, 4, seed=1)
    weight = np.arange(10, dtype="float32")
    metric = Agreement()
    for rows in (slice(7), slice(7, 10)):
        metric.update_state(student[rows], teacher[rows], weight[rows])
    equal = student.argmax(-1) == teacher.argmax(-1)
    assert 0 < equal.sum() < 10
    np.testing.assert_allclose(metric.result(), (equal * weight).sum() / weight.sum(), rtol=1e-6)


def test_positions_have_equal_weight_and_may_be_nan_at_weight_zero():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    equal = student.argmax(-1) == teacher.argmax(-1)
    metric = Agreement()
    metric.update_state(student, teacher)
    np.testing.assert_allclose(metric.result(), equal.mean())
    metric.reset_state()
    teacher[0, 0] = np.nan
    metric.update_state(student, teacher, np.float32([[0, 1, 1], [1, 1, 1]]))
    np.testing.assert_allclose(metric.result(), equal.ravel()[1:].mean())


def test_log_name_and_config_round_trip():
    assert (Agreement().name, Agreement(k=5).name, Agreement(5, name="a").name) == ("agreement", "top_5_agreement", "a")
    metric = Agreement(2, student="logits", teacher="b/logits", mask="padding")
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (restored.k, restored.student, restored.teacher, restored.mask) == (2, "logits", "b/logits", "padding")


@pytest.mark.parametrize("k", [0, 1.5, True, "2"])
def test_rejects_invalid_k(k):
    with pytest.raises(ValueError, match="`k` must be an integer >= 1"):
        Agreement(k)


def test_rejects_labels_instead_of_logits():
    with pytest.raises(ValueError, match=r"compares logits of the same classes. Received: student .* of shape \(4,\)"):
        Agreement().update_state(np.arange(4), features(4, 3))
