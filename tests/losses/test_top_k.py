import numpy as np
import pytest

from keras_distill.losses import TopK
from keras_distill.losses.kl_divergence import kl_divergence
from keras_distill.losses.top_k import top_k
from tests.support.helpers import central_differences, features, softmax, value_and_gradient


def reference(student, teacher, k, temperature, tail):
    """The formula, by a loop over rows and classes."""
    values = []
    for s, t in zip(student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1]), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        best = np.argsort(-p)[:k]
        q, p = ([*x[best], np.delete(x, best).sum()] if tail else x[best] / x[best].sum() for x in (q, p))
        values.append(temperature**2 * sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))
    return np.array(values)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 7)])
def test_matches_the_formula(shape, temperature, tail):
    student, teacher = features(*shape, scale=2), features(*shape, seed=1, scale=2)
    settings = 3, temperature, tail
    value, gradient = value_and_gradient(lambda s: top_k(s, teacher, *settings), student)
    np.testing.assert_allclose(value, reference(student, teacher, *settings).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, *settings).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Teacher 1/2, 1/4, 1/8, 1/8, student 1/4 each; the last two classes form the bucket.
    teacher = np.log(np.array([[4.0, 2.0, 1.0, 1.0]]))
    expected = 0.5 * np.log(2) + 0.25 * np.log(1) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(top_k(np.zeros((1, 4)), teacher, k=2), [expected], rtol=1e-6)
    # Without the bucket: teacher 2/3 and 1/3, student 1/2 each.
    expected = 2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)
    np.testing.assert_allclose(top_k(np.zeros((1, 4)), teacher, k=2, tail=False), [expected], rtol=1e-6)


def test_accurate_for_a_tiny_tail():
    # Its probability is 1e-9 and 4e-9: 1 minus the sum of the others is 0 in float32.
    teacher, student = np.array([[20.0, 20.0, 0.0]]), np.array([[20.0, 20.0, np.log(4.0)]])
    _, gradient = value_and_gradient(lambda s: top_k(s, teacher, k=2), student)
    mass = softmax(student)[0, 2] - softmax(teacher)[0, 2]
    np.testing.assert_allclose(gradient[0, 2], mass, rtol=1e-4)


def test_ignores_the_distribution_within_the_tail():
    student, teacher = features(3, 8), features(3, 8, seed=1)
    rest = np.argsort(-teacher, axis=-1)[:, 3:]
    shuffled = student.copy()
    np.put_along_axis(shuffled, rest, np.take_along_axis(student, rest[:, ::-1], axis=-1), axis=-1)
    np.testing.assert_allclose(top_k(shuffled, teacher, k=3), top_k(student, teacher, k=3), rtol=1e-5)


def test_all_classes_equal_plain_distillation():
    student, teacher = features(3, 5), features(3, 5, seed=1)
    for k, tail in ((5, True), (5, False), (50, True)):
        loss = top_k(student, teacher, k, 2.0, tail)
        np.testing.assert_allclose(loss, kl_divergence(student, teacher, 2.0), rtol=1e-5)


def test_equal_logits_select_k_classes():
    value, gradient = value_and_gradient(lambda s: top_k(s, np.zeros((2, 6)), k=2), np.zeros((2, 6), "float32"))
    np.testing.assert_allclose(value, 0, atol=1e-7)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_rejects_invalid_k(k):
    with pytest.raises(ValueError, match="`k` must be an integer >= 1. Received:"):
        TopK(k)


def test_rejects_a_single_class_without_tail():
    with pytest.raises(ValueError, match="single class"):
        TopK(1, tail=False)
