import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import DecoupledKD
from keras_distill.losses.decoupled_kd import decoupled_kd
from keras_distill.losses.kl_divergence import kl_divergence
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher, labels, alpha, beta, temperature):
    """Equation 6 of the paper times T^2, example by example, in the precision of the arguments."""

    def log_parts(logits, target):
        logits = logits / temperature
        logits = logits - logits.max()
        others = np.delete(logits, target)
        # Shifted by the maximum of the others, which would underflow beside a confident target.
        largest = others.max()
        rest = largest + np.log(np.exp(others - largest).sum())
        whole = np.logaddexp(logits[target], rest)
        return np.array([logits[target] - whole, rest - whole]), others - rest

    values = []
    for s, t, target in zip(student, teacher, labels, strict=True):
        (binary_s, others_s), (binary_t, others_t) = log_parts(s, target), log_parts(t, target)
        binary = (np.exp(binary_t) * (binary_t - binary_s)).sum()
        others = (np.exp(others_t) * (others_t - others_s)).sum()
        values.append(temperature**2 * (alpha * binary + beta * others))
    return np.array(values)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("classes", [2, 5])
def test_matches_the_paper(classes, alpha, beta):
    student, teacher, labels = features(4, classes), features(4, classes, seed=1), np.arange(4) % classes
    settings = labels, alpha, beta, 4.0
    value, gradient = value_and_gradient(lambda s: decoupled_kd(s, teacher, *settings), student)
    np.testing.assert_allclose(value, reference(student, teacher, *settings).mean(), rtol=1e-5, atol=1e-12)
    slope = central_differences(lambda s: reference(s, teacher, *settings).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_matches_the_paper_in_float64(scale, temperature):
    student, teacher, labels = features(3, 20, scale=scale), features(3, 20, seed=1, scale=scale), [0, 7, 19]
    exact = student.astype("float64"), teacher.astype("float64")
    value, gradient = value_and_gradient(
        lambda s: decoupled_kd(s, teacher, np.array(labels), temperature=temperature), student
    )
    np.testing.assert_allclose(value, reference(*exact, labels, 1.0, 8.0, temperature).mean(), rtol=1e-4)
    assert np.isfinite(gradient).all()


def test_finite_where_the_probability_of_the_target_rounds_to_1():
    # The published code takes the log of 1 - p, which is 0 in float32.
    student, teacher, labels = np.array([[60.0, 0.0, 1.0]]), np.array([[0.0, 60.0, 1.0]]), np.array([0])
    value, gradient = value_and_gradient(lambda s: decoupled_kd(s, teacher, labels, temperature=1.0), student)
    np.testing.assert_allclose(value, reference(student, teacher, labels, 1.0, 8.0, 1.0).mean(), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_known_value():
    # Student uniform over three classes; teacher 1/2 for the target, 3/8 and 1/8 for the others.
    teacher = np.log(np.array([[4.0, 3.0, 1.0]]))
    binary = 0.5 * np.log(0.5 * 3) + 0.5 * np.log(0.5 * 3 / 2)
    others = 0.75 * np.log(0.75 * 2) + 0.25 * np.log(0.25 * 2)
    loss = decoupled_kd(np.zeros((1, 3)), teacher, np.array([0]), alpha=2.0, beta=3.0, temperature=1.0)
    np.testing.assert_allclose(loss, [2 * binary + 3 * others], rtol=1e-5)


def test_equals_plain_distillation_when_beta_is_the_teachers_probability_of_the_others():
    # Equation 5 of the paper.
    student, teacher, labels = features(1, 6), features(1, 6, seed=1), np.array([2])
    probability = np.exp(teacher[0, 2]) / np.exp(teacher[0]).sum()
    loss = decoupled_kd(student, teacher, labels, alpha=1.0, beta=1 - probability, temperature=1.0)
    np.testing.assert_allclose(loss, kl_divergence(student, teacher, 1.0), rtol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([[0], [4], [2]]),
        np.array([0.0, 4.0, 2.0]),
        np.eye(5)[[0, 4, 2]],
        0.9 * np.eye(5)[[0, 4, 2]] + 0.02,
    ],
    ids=["column", "float", "one-hot", "smoothed"],
)
def test_accepts_every_label_format(labels):
    student, teacher = features(3, 5), features(3, 5, seed=1)
    np.testing.assert_allclose(
        decoupled_kd(student, teacher, labels), decoupled_kd(student, teacher, np.array([0, 4, 2])), rtol=1e-6
    )


@pytest.mark.parametrize(
    "labels",
    [
        np.array([3, -1]),
        np.array([3.0, np.nan]),
        np.array([[0, 0, 0, 1], [-1, -1, -1, -1]]),
        np.eye(4)[[3, 0]] * [[1], [0]],
    ],
    ids=["number", "nan", "row", "zeros"],
)
def test_missing_labels_contribute_nothing(labels):
    student, teacher = features(2, 4), features(2, 4, seed=1)
    loss = decoupled_kd(student, teacher, labels)
    np.testing.assert_allclose(loss, [decoupled_kd(student, teacher, np.array([3, 0]))[0], 0], rtol=1e-6)
    _, gradient = value_and_gradient(lambda s: decoupled_kd(s, teacher, labels), student)
    assert np.any(gradient[0]) and not np.any(gradient[1])


def test_labels_of_tokens():
    student, teacher = features(2, 3, 5), features(2, 3, 5, seed=1)
    labels = np.array([[0, 4, 2], [1, -1, 3]])
    each = np.asarray(decoupled_kd(student.reshape(6, 5), teacher.reshape(6, 5), labels.reshape(6)))
    each = each.reshape(2, 3)
    assert each[1, 1] == 0
    for form in (labels, labels[..., None]):
        np.testing.assert_allclose(decoupled_kd(student, teacher, form), each, rtol=1e-6)
    batch = Batch(None, labels, position_weight=np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(
        DecoupledKD().compare(student, teacher, batch), [each[0, :2].mean(), each[1, 0]], rtol=1e-6
    )


def test_rejects_invalid_arguments():
    with pytest.raises(ValueError, match="must not both be 0.*Received: alpha=0, beta=0"):
        DecoupledKD(alpha=0, beta=0)
    with pytest.raises(ValueError, match="`beta` must be"):
        DecoupledKD(beta=-1)
    with pytest.raises(ValueError, match="`temperature` must be"):
        DecoupledKD(temperature=0)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match=r"two classes or more.*\(None, 1\)"):
        DecoupledKD().build((None, 1), (None, 1))
