import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import DIST
from keras_distill.losses.dist import dist
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, beta, gamma, temperature):
    """1 - correlation of rows and of columns, by `np.corrcoef`, times T^2."""
    s, t = softmax(student, temperature), softmax(teacher, temperature)
    inter = np.mean([1 - np.corrcoef(s[i], t[i])[0, 1] for i in range(len(s))])
    intra = np.mean([1 - np.corrcoef(s[:, c], t[:, c])[0, 1] for c in range(s.shape[1])])
    return temperature**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_matches_the_paper(temperature, beta, gamma):
    student, teacher = features(5, 4), features(5, 4, seed=1)
    settings = beta, gamma, temperature
    value, gradient = value_and_gradient(lambda s: dist(s, teacher, *settings), student)
    np.testing.assert_allclose(value, reference(student, teacher, *settings), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, *settings), student)
    np.testing.assert_allclose(gradient, slope, atol=2e-6 * temperature**2)


def test_known_value():
    # The student ranks the classes of the first example as the teacher does, those of the second in reverse.
    student, teacher = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[3.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(dist(student, teacher, beta=1.0, gamma=0.0), [0.0, 2.0], atol=1e-6)
    # The student predicts the same for both examples: its classes have correlation 0.
    np.testing.assert_allclose(dist(student, teacher, beta=0.0, gamma=1.0), [1.0, 1.0], atol=1e-6)


def test_ignores_the_teachers_confidence():
    # The teacher's probabilities are a mixture of the student's and uniform ones.
    student = features(4, 5)
    teacher = np.log(0.3 * softmax(student) + 0.7 / 5)
    np.testing.assert_allclose(dist(student, teacher), np.zeros(4), atol=1e-6)


def test_positions_count_as_examples():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    weight = np.array([[1, 1, 0], [1, 0, 0]], "float32")
    valid = [x[weight > 0] for x in (student, teacher)]
    each = np.asarray(dist(*valid))
    loss = DIST().compare(student, teacher, Batch(None, position_weight=weight))
    np.testing.assert_allclose(loss, [each[:2].mean(), each[2]], rtol=1e-5)


def test_a_batch_of_one_has_only_the_correlation_over_classes():
    student, teacher = features(1, 5), features(1, 5, seed=1)
    _, gradient = value_and_gradient(lambda s: dist(s, teacher, beta=0.0), student)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    np.testing.assert_allclose(dist(student, teacher), dist(student, teacher, gamma=0.0) + 1.0, rtol=1e-5)


def test_rejects_two_weights_of_0():
    with pytest.raises(ValueError, match="must not both be 0.*Received: beta=0, gamma=0"):
        DIST(0, 0)
