import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import MultiLevelKD
from keras_distill.losses.multi_level_kd import batch_level, class_level, multi_level_kd
from tests.support.helpers import central_differences, features, softened_kl, softmax, value_and_gradient


def batch_reference(student, teacher, temperature):
    """Squared difference of the similarity matrices, by a loop over pairs of examples."""
    s, t = softmax(student, temperature), softmax(teacher, temperature)
    pairs = [(t[i] @ t[j] - s[i] @ s[j]) ** 2 for i in range(len(s)) for j in range(len(s))]
    return sum(pairs) / len(s)


def class_reference(student, teacher, temperature):
    """Squared difference of the similarity matrices, by a loop over pairs of classes."""
    s, t = softmax(student, temperature).T, softmax(teacher, temperature).T
    pairs = [(t[i] @ t[j] - s[i] @ s[j]) ** 2 for i in range(len(s)) for j in range(len(s))]
    return sum(pairs) / len(s)


@pytest.mark.parametrize(("part", "reference"), [(batch_level, batch_reference), (class_level, class_reference)])
def test_matches_the_paper(part, reference):
    student, teacher = features(5, 4), features(5, 4, seed=1)
    value, gradient = value_and_gradient(lambda s: part(s, teacher, 2.0), student)
    np.testing.assert_allclose(value, reference(student, teacher, 2.0), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, 2.0), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_values():
    # The teacher predicts different classes for the two examples; the student predicts 1/2 for each class.
    student, teacher = np.zeros((2, 2)), np.array([[100.0, 0.0], [0.0, 100.0]])
    # Inner products are 1 and 0 for the teacher, 1/2 for the student.
    np.testing.assert_allclose(batch_level(student, teacher, 1.0), [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(class_level(student, teacher, 1.0), [0.5, 0.5], rtol=1e-6)


def test_averages_over_the_temperatures():
    student, teacher = features(3, 4), features(3, 4, seed=1)
    parts = [
        softened_kl(student, teacher, t) + batch_level(student, teacher, t) + class_level(student, teacher, t)
        for t in (1.0, 4.0)
    ]
    np.testing.assert_allclose(multi_level_kd(student, teacher, (1.0, 4.0)), np.mean(parts, axis=0), rtol=1e-5)


def test_positions_count_as_examples():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    weight = np.array([[1, 1, 0], [1, 0, 0]], "float32")
    each = np.asarray(multi_level_kd(*(x[weight > 0] for x in (student, teacher))))
    loss = MultiLevelKD().compare(student, teacher, Batch(None, position_weight=weight))
    np.testing.assert_allclose(loss, [each[:2].mean(), each[2]], rtol=1e-5)


def test_rejects_invalid_temperatures():
    with pytest.raises(ValueError, match=r"`temperatures` must hold at least one temperature. Received: \[\]"):
        MultiLevelKD([])
    with pytest.raises(ValueError, match="`temperatures` must be"):
        MultiLevelKD([1.0, 0.0])
