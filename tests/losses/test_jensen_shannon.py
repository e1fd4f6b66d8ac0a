import numpy as np
import pytest

from keras_distill.losses import JensenShannon
from keras_distill.losses.jensen_shannon import jensen_shannon
from tests.support.helpers import central_differences, features, softened_kl, softmax, value_and_gradient


def reference(student, teacher, beta, temperature=1.0):
    """Equation 1 of the paper, times T^2."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    mixture = np.log(beta * p + (1 - beta) * q)
    to_teacher, to_student = ((x * (np.log(x) - mixture)).sum(axis=-1) for x in (p, q))
    return temperature**2 * (beta * to_teacher + (1 - beta) * to_student)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_paper(shape, beta, temperature):
    student, teacher = features(*shape, scale=2), features(*shape, seed=1, scale=2)
    value, gradient = value_and_gradient(lambda s: jensen_shannon(s, teacher, beta, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, beta, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, beta, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_accurate_for_nearly_equal_models(beta):
    teacher = features(4, 50)
    student = teacher + features(4, 50, seed=1, scale=1e-3)
    expected = reference(student, teacher, beta).mean()
    np.testing.assert_allclose(np.mean(jensen_shannon(student, teacher, beta)), expected, rtol=1e-3)


def test_known_value():
    # Both models are confident of different classes: the divergence of each from the even mixture is log 2.
    student, teacher = np.array([[100.0, 0.0]]), np.array([[0.0, 100.0]])
    np.testing.assert_allclose(jensen_shannon(student, teacher), [np.log(2)], rtol=1e-6)
    # Mixture of three to one: log 4/3 from the teacher, log 4 from the student.
    expected = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    np.testing.assert_allclose(jensen_shannon(student, teacher, beta=0.75), [expected], rtol=1e-6)


def test_beta_of_0_and_1_gives_the_two_divergences():
    student, teacher = features(3, 5), features(3, 5, seed=1)
    np.testing.assert_allclose(
        jensen_shannon(student, teacher, 0.0, 2.0), softened_kl(student, teacher, 2.0), rtol=1e-5
    )
    np.testing.assert_allclose(
        jensen_shannon(student, teacher, 1.0, 2.0), softened_kl(teacher, student, 2.0), rtol=1e-5
    )
    # They are the limits of the loss over `beta` and over `1 - beta`.
    for beta, end in ((1e-3, 0.0), (1 - 1e-3, 1.0)):
        near = np.asarray(jensen_shannon(student, teacher, beta)) / 1e-3
        np.testing.assert_allclose(near, jensen_shannon(student, teacher, end), rtol=1e-2)


def test_symmetric_for_beta_of_one_half():
    student, teacher = features(3, 5), features(3, 5, seed=1)
    np.testing.assert_allclose(jensen_shannon(student, teacher), jensen_shannon(teacher, student), rtol=1e-5)
    swapped = jensen_shannon(teacher, student, beta=0.8)
    np.testing.assert_allclose(jensen_shannon(student, teacher, beta=0.2), swapped, rtol=1e-5)


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan"), True, "0.5"])
def test_rejects_invalid_beta(beta):
    with pytest.raises(ValueError, match="`beta` must be a finite number >= 0 and <= 1. Received:"):
        JensenShannon(beta)
