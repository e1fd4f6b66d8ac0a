import keras
import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import DecoupledKD, Hint, KLDivergence, LogitStandardization
from keras_distill.losses.logit_standardization import logit_standardization
from tests.support.helpers import central_differences, features, softened_kl, value_and_gradient


def reference(logits):
    """The z-score of the paper, with the standard deviation of the authors' code."""
    return (logits - logits.mean(axis=-1, keepdims=True)) / logits.std(axis=-1, ddof=1, keepdims=True)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_matches_the_paper(shape):
    student, teacher = 3 + features(*shape, scale=2), features(*shape, seed=1)
    loss = LogitStandardization(KLDivergence(2.0))
    value, gradient = value_and_gradient(lambda s: loss.compare(s, teacher, Batch(None)), student)

    def expected(student):
        return softened_kl(reference(student), reference(teacher.astype("float64")), 2.0).mean()

    np.testing.assert_allclose(value, expected(student.astype("float64")), rtol=1e-5)
    np.testing.assert_allclose(gradient, central_differences(expected, student), atol=1e-6)


def test_known_value():
    np.testing.assert_allclose(logit_standardization(np.array([[1.0, 2.0, 3.0]])), [[-1.0, 0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(logit_standardization(np.full((1, 3), 0.1)), np.zeros((1, 3)))


def test_ignores_scale_and_shift_of_the_logits():
    student = features(3, 5)
    loss = LogitStandardization().compare(5 * student + 2, student, Batch(None))
    np.testing.assert_allclose(loss, np.zeros(3), atol=1e-9)


def test_equal_logits_have_no_gradient():
    # The published code divides by 1e-7 here, which makes the gradient explode.
    student = np.full((2, 5), 0.1, "float32")
    _, gradient = value_and_gradient(lambda s: LogitStandardization().compare(s, features(2, 5), Batch(None)), student)
    assert np.abs(gradient).max() < 1e-6


def test_default_is_the_loss_of_kl_divergence_at_2():
    student, teacher = features(2, 3, 5), features(2, 3, 5, seed=1)
    batch = Batch(None, position_weight=np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    default, named = LogitStandardization(), LogitStandardization(KLDivergence(2.0))
    np.testing.assert_allclose(default.compare(student, teacher, batch), named.compare(student, teacher, batch))


def test_saves_the_inner_loss():
    loss = LogitStandardization(DecoupledKD(beta=2.0))
    assert loss.needs_labels and not LogitStandardization().needs_labels
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(revived.loss, DecoupledKD) and revived.loss.beta == 2.0
    student, teacher, batch = features(3, 5), features(3, 5, seed=1), Batch(None, np.array([0, 1, 2]))
    expected = DecoupledKD(beta=2.0).compare(reference(student), reference(teacher), batch)
    np.testing.assert_allclose(revived.compare(student, teacher, batch), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [Hint(), "kl", 2.0])
def test_rejects_other_losses(loss):
    with pytest.raises(ValueError, match="takes a loss of logits"):
        LogitStandardization(loss)
