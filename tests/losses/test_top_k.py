import numpy as np
import pytest

from keras_distill.data.top_k import TopKLogits
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


def stored(k, shape=(2, 3), classes=9, seed=4):
    """Return top-k logits of a cache, and the float64 logits that they stand for."""
    logits = features(*shape, classes, seed=seed, scale=2)
    order = np.argsort(-logits, axis=-1).astype("int32")
    others = np.log(np.exp(np.take_along_axis(logits, order[..., k:], axis=-1)).sum(axis=-1, keepdims=True))
    top = np.concatenate([np.take_along_axis(logits, order[..., :k], axis=-1), others], axis=-1)
    dense = np.repeat(top[..., k:].astype("float64") - np.log(classes - k), classes, axis=-1)
    np.put_along_axis(dense, order[..., :k], top[..., :k], axis=-1)
    return TopKLogits.from_bucket(top, order[..., :k], classes), dense


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("k", [2, 4, 7, 9, 20])
def test_top_k_logits_equal_those_of_all_classes(k, temperature, tail):
    student = features(2, 3, 9, scale=2)
    teacher, dense = stored(4)
    settings = min(k, 9), temperature, tail and k < 9
    value, gradient = value_and_gradient(lambda s: top_k(s, teacher, k, temperature, tail), student)
    # Equal logits: the order of the formula is that of the classes.
    np.testing.assert_allclose(value, stable(student, dense, *settings).mean(), rtol=1e-5)
    slope = central_differences(lambda s: stable(s, dense, *settings).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def stable(student, teacher, k, temperature, tail):
    """`reference`, where the first of equal classes is taken. A class of probability 0 is left out at 100 nats."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    best = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    q, p = (grouped(x, best, tail) for x in (q, p))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(p == q, 0.0, np.clip(np.log(p) - np.log(q), -100, 100))
    return temperature**2 * (p * ratio).sum(axis=-1)


def grouped(x, best, tail):
    top, rest = np.take_along_axis(x, best, axis=-1), x.copy()
    np.put_along_axis(rest, best, 0.0, axis=-1)
    if tail:
        return np.concatenate([top, rest.sum(axis=-1, keepdims=True)], axis=-1)
    return top / top.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("masked", [-np.inf, -1e9, -65504.0])
@pytest.mark.parametrize("k", [2, 4, 6])
def test_masked_logits(k, masked):
    student = features(2, 3, 9, scale=2)
    teacher, dense = stored(4)
    # A stored class and another one; the teacher masks the class of the lowest stored logit and all others.
    student[0, :, :3] = masked
    top, lowest = np.array(teacher.top), np.array(teacher.classes)[0, 0, 3]
    top[0, 0, 3] = masked
    others = np.array(teacher.others)
    others[1, 1] = masked
    kept = np.zeros(9, bool)
    kept[np.array(teacher.classes)[1, 1]] = True
    dense[0, 0, lowest], dense[1, 1, ~kept] = -np.inf, -np.inf
    student = student.astype("float64")
    expected = stable(np.where(student < -6e4, -np.inf, student), dense, k, 2.0, True)
    result, gradient = value_and_gradient(
        lambda s: top_k(s, TopKLogits(top, others, teacher.classes, 9), k, 2.0), student.astype("float32")
    )
    np.testing.assert_allclose(result, expected.mean(), rtol=1e-5)
    assert np.isfinite(gradient).all()
