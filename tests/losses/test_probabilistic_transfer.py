import numpy as np

from keras_distill.losses.probabilistic_transfer import probabilistic_transfer
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """The paper's divergence with the cosine kernel, a loop over pairs; an example is also its own neighbor."""

    def probabilities(rows, i):
        cosines = np.array([rows[i] @ row / (np.linalg.norm(rows[i]) * np.linalg.norm(row)) for row in rows])
        return (cosines + 1) / (cosines + 1).sum()

    values = []
    for i in range(len(student)):
        q, p = probabilities(student, i), probabilities(teacher, i)
        values.append((p * np.log(p / q)).sum())
    return np.mean(values)


def test_matches_the_paper():
    student, teacher = features(5, 4), features(5, 7, seed=1)
    value, gradient = value_and_gradient(lambda s: probabilistic_transfer(s, teacher), student)
    np.testing.assert_allclose(value, reference(student.astype("float64"), teacher.astype("float64")), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher.astype("float64")), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Student: orthogonal examples, probabilities 2/3 (itself) and 1/3. Teacher: equal examples, 1/2 and 1/2.
    expected = 0.5 * np.log(0.5 / (2 / 3)) + 0.5 * np.log(0.5 / (1 / 3))
    np.testing.assert_allclose(probabilistic_transfer(np.eye(2), np.ones((2, 3))), [expected] * 2, rtol=1e-5)


def test_opposite_examples_are_finite():
    # Probability 0 in the student, above 0 in the teacher.
    student = np.array([[1.0, 0.0], [-1.0, 0.0]], "float32")
    value, gradient = value_and_gradient(lambda s: probabilistic_transfer(s, np.eye(2)), student)
    assert 1 < value < 10 and np.isfinite(gradient).all()


def test_ignores_scale_and_rotation_of_the_embeddings():
    student, rotation = features(6, 8), np.linalg.qr(features(8, 8, seed=2))[0]
    np.testing.assert_allclose(probabilistic_transfer(student, 3 * student @ rotation), np.zeros(6), atol=1e-10)
