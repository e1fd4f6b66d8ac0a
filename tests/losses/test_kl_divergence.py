import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import KLDivergence
from keras_distill.losses.kl_divergence import kl_divergence
from tests.support.helpers import central_differences, features, value_and_gradient

pytestmark = pytest.mark.everyday


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def reference(student, teacher, temperature):
    """T^2 times the divergence, in the precision of the arguments."""
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(axis=-1)


def reference_gradient(student, teacher, temperature):
    """Section 2 of the paper: the gradient of the cross-entropy, which differs by a constant, times T^2."""
    return temperature * (np.exp(log_softmax(student / temperature)) - np.exp(log_softmax(teacher / temperature)))


@pytest.mark.parametrize("temperature", [0.05, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("shape", [(1, 2), (3, 10), (2, 5, 1000)])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_matches_the_paper_in_float64(shape, scale, temperature):
    student, teacher = features(*shape, scale=scale), features(*shape, seed=1, scale=scale)
    exact = [x.astype("float64") for x in (student, teacher)]
    value, gradient = value_and_gradient(lambda s: kl_divergence(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(*exact, temperature).mean(), rtol=1e-5)
    expected = reference_gradient(*exact, temperature)
    gradient = gradient * np.prod(shape[:-1])
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_accurate_for_nearly_equal_models():
    # At a temperature of 1000 and a difference of 1 %, log_softmax in float32 leaves no correct digit.
    teacher = features(4, 100, scale=3)
    student = teacher + features(4, 100, seed=1, scale=0.03)
    exact = [x.astype("float64") for x in (student, teacher)]
    value, gradient = value_and_gradient(lambda s: kl_divergence(s, teacher, 1000.0), student)
    np.testing.assert_allclose(value, reference(*exact, 1000.0).mean(), rtol=5e-4)
    expected = reference_gradient(*exact, 1000.0)
    np.testing.assert_allclose(4 * gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_gradient_matches_finite_differences():
    student, teacher = features(3, 7), features(3, 7, seed=1)
    _, gradient = value_and_gradient(lambda s: kl_divergence(s, teacher, 2.0), student)
    np.testing.assert_allclose(
        gradient, central_differences(lambda s: reference(s, teacher, 2.0).mean(), student), atol=1e-6
    )


def test_known_value():
    # Teacher probabilities 3/4 and 1/4, uniform student: log 2 minus the teacher's entropy.
    teacher = np.log(np.array([[3.0, 1.0]], "float32"))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(kl_divergence(np.zeros((1, 2)), teacher, 1.0), [np.log(2) - entropy], rtol=1e-6)
    # The same probabilities after softening.
    np.testing.assert_allclose(
        kl_divergence(np.zeros((1, 2)), 4 * teacher, 4.0), [16 * (np.log(2) - entropy)], rtol=1e-6
    )


def test_student_and_teacher_are_not_interchangeable():
    student, teacher = features(3, 4), features(3, 4, seed=1)
    assert not np.allclose(kl_divergence(student, teacher, 1.0), kl_divergence(teacher, student, 1.0), rtol=1e-2)


def test_ignores_a_shift_of_the_logits():
    student, teacher = features(3, 4), features(3, 4, seed=1)
    np.testing.assert_allclose(
        kl_divergence(student + 8, teacher - 8, 1.0), kl_divergence(student, teacher, 1.0), rtol=1e-5
    )


def test_half_squared_distance_of_centered_logits_at_high_temperature():
    # Section 2.1 of the paper: the limit is the squared difference of logits.
    student, teacher = features(3, 6), features(3, 6, seed=1)
    difference = (student - student.mean(-1, keepdims=True)) - (teacher - teacher.mean(-1, keepdims=True))
    np.testing.assert_allclose(kl_divergence(student, teacher, 1e4), (difference**2).mean(axis=-1) / 2, rtol=1e-3)


def test_class_averages_over_valid_positions():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    weight = np.array([[1, 1, 0], [1, 0, 0]], "float32")
    each = np.asarray(kl_divergence(student, teacher, 3.0))
    loss = KLDivergence(temperature=3).compare(student, teacher, Batch(None, position_weight=weight))
    np.testing.assert_allclose(loss, [each[0, :2].mean(), each[1, 0]], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), True, "4"])
def test_rejects_invalid_temperatures(temperature):
    with pytest.raises(ValueError, match="`temperature` must be"):
        KLDivergence(temperature)


def test_rejects_a_single_class():
    with pytest.raises(ValueError, match=r"two classes or more.*\(None, 1\)"):
        KLDivergence().build((None, 1), (None, 1))
