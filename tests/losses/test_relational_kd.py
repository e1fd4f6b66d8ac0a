import itertools

import keras
import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import RelationalKD
from keras_distill.losses.relational_kd import angle_wise, distance_wise
from tests.support.helpers import central_differences, features, value_and_gradient


def huber(difference):
    """Equation 4 of the paper."""
    size = abs(difference)
    return size**2 / 2 if size <= 1 else size - 0.5


def distance_reference(student, teacher):
    """Equations 5 to 7 of the paper, a loop over pairs, over batch^2."""
    pairs = list(itertools.permutations(range(len(student)), 2))
    s, t = ([np.linalg.norm(f[i] - f[j]) for i, j in pairs] for f in (student, teacher))
    return sum(huber(a / np.mean(s) - b / np.mean(t)) for a, b in zip(s, t, strict=True)) / len(student) ** 2


def angle_reference(student, teacher):
    """Equations 8 to 10 of the paper, a loop over triplets, over batch^3; the vertex is the first."""

    def cosine(f, i, j, k):
        a, b = f[j] - f[i], f[k] - f[i]
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    triplets = itertools.permutations(range(len(student)), 3)
    return sum(huber(cosine(student, *t) - cosine(teacher, *t)) for t in triplets) / len(student) ** 3


@pytest.mark.parametrize(("part", "reference"), [(distance_wise, distance_reference), (angle_wise, angle_reference)])
def test_matches_the_paper(part, reference):
    # Cubed, so that some differences are in the linear part of the Huber loss.
    student, teacher = features(5, 3) ** 3, features(5, 4, seed=1)
    value, gradient = value_and_gradient(lambda s: part(s, teacher), student)
    np.testing.assert_allclose(value, reference(student.astype("float64"), teacher.astype("float64")), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher.astype("float64")), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_distances():
    # On a line at 0, 1, 3: distances 1, 2, 3 of mean 2. Corners of a triangle: all equal.
    student = np.array([[0.0], [1.0], [3.0]])
    triangle = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # |0.5 - 1|, |1.5 - 1| and 0: each half of 0.25.
    np.testing.assert_allclose(distance_wise(student, triangle), np.array([0.25, 0.125, 0.125]) / 3, rtol=1e-6)


def test_known_angles():
    # A right angle at the first point, 45 degrees at the others; in the teacher 60 degrees everywhere.
    student = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    triangle = np.eye(3)
    right, sharp = 0.5**2 / 2, (np.sqrt(0.5) - 0.5) ** 2 / 2
    np.testing.assert_allclose(
        angle_wise(student, triangle), np.array([2 * right, 2 * sharp, 2 * sharp]) / 9, rtol=1e-5
    )


@pytest.mark.parametrize("part", [distance_wise, angle_wise])
def test_ignores_scale_shift_and_rotation_of_the_embeddings(part):
    student, rotation = features(6, 8), np.linalg.qr(features(8, 8, seed=2))[0]
    np.testing.assert_allclose(part(student, 3 * student @ rotation + 1), np.zeros(6), atol=1e-10)


@pytest.mark.parametrize("part", [distance_wise, angle_wise])
def test_equal_rows_have_a_small_gradient(part):
    # The published code's gradient is 1e11 here, and nan for a batch of one.
    student = features(5, 4)
    student[1] = student[0]
    value, gradient = value_and_gradient(lambda s: part(s, features(5, 6, seed=1)), student)
    assert 0 < value < 1
    assert np.abs(gradient).max() < 1
    for few in (student[:1], student[:2]):
        value, gradient = value_and_gradient(lambda s, few=few: part(s, features(len(few), 6, seed=1)), few)
        assert np.isfinite(value)
        assert np.abs(gradient).max() < 1


def nearly_equal_rows():
    student = features(6, 5)
    student[1] = student[0] * np.float32(1 + 1e-6)
    return student


def distant_clusters():
    return features(6, 5) + np.float32(np.repeat([[1000.0], [-1000.0]], 3, axis=0))


@pytest.mark.parametrize(("part", "reference"), [(distance_wise, distance_reference), (angle_wise, angle_reference)])
@pytest.mark.parametrize(("student", "step"), [(nearly_equal_rows(), 1e-9), (distant_clusters(), 1e-4)])
def test_small_distances_are_not_lost_by_rounding(part, reference, student, step, monkeypatch):
    # Two vertices at a time.
    monkeypatch.setattr("keras_distill.losses.relational_kd._ANGLES", 72)
    teacher = features(6, 4, seed=1)
    value, gradient = value_and_gradient(lambda s: part(s, teacher), student)
    exact = student.astype("float64"), teacher.astype("float64")
    np.testing.assert_allclose(value, reference(*exact), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, exact[1]), student, step)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_merging_two_examples_changes_the_value_smoothly():
    student, teacher = features(5, 4), features(5, 4, seed=1)
    student[1] = student[0]
    nearly = student.copy()
    nearly[1, 0] += 1e-5
    np.testing.assert_allclose(distance_wise(nearly, teacher), distance_wise(student, teacher), rtol=1e-4)


def test_a_part_of_weight_0_is_excluded():
    student, teacher = features(4, 3), features(4, 3, seed=1)
    distance = RelationalKD(distance=2, angle=0).compare(student, teacher, Batch(None))
    np.testing.assert_allclose(distance, 2 * distance_wise(student, teacher), rtol=1e-6)
    angle = RelationalKD(distance=0, angle=3).compare(student, teacher, Batch(None))
    np.testing.assert_allclose(angle, 3 * angle_wise(student, teacher), rtol=1e-6)


def test_weights_follow_a_schedule():
    student, teacher = features(4, 3), features(4, 3, seed=1)
    loss = RelationalKD(distance=keras.optimizers.schedules.PolynomialDecay(4.0, 10, 2.0), angle=0)
    np.testing.assert_allclose(
        loss.compare(student, teacher, Batch(None, step=5)), 3 * distance_wise(student, teacher), rtol=1e-6
    )


def test_invalid_weights_raise():
    with pytest.raises(ValueError, match="`distance` or `angle` must be > 0"):
        RelationalKD(0, 0)
    with pytest.raises(ValueError, match="`angle` must be a finite number >= 0"):
        RelationalKD(angle=-1)
