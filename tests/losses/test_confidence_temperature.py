import keras
import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import ConfidenceTemperature, DecoupledKD, Hint, KLDivergence
from keras_distill.losses.confidence_temperature import confidence_temperature
from tests.support.helpers import central_differences, features, softened_kl, softmax, value_and_gradient


def reference(student, base, beta):
    """TextBrewer's temperatures: `beta` is added to the base, not to a multiple of it."""
    weight = 1 / (softmax(student).max(axis=-1) + 1e-3)
    return base + (weight.mean() - weight) * beta


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 6)])
def test_matches_the_published_code(shape):
    student, teacher = (features(*shape, seed=seed, scale=2.0).astype("float64") for seed in (0, 1))
    temperatures = reference(student, 4.0, 1.0)
    np.testing.assert_allclose(4.0 * confidence_temperature(student, 0.25), temperatures, rtol=1e-5)

    def expected(student):
        # The temperatures have no gradient; the factor of the loss remains 4^2.
        divergence = softened_kl(student / temperatures[..., None], teacher / temperatures[..., None], 1.0)
        return 4.0**2 * divergence.mean()

    loss = ConfidenceTemperature(KLDivergence(4.0), beta=0.25)
    value, gradient = value_and_gradient(lambda s: loss.compare(s, teacher, Batch(None)), student.astype("float32"))
    np.testing.assert_allclose(value, expected(student), rtol=1e-5)
    np.testing.assert_allclose(gradient, central_differences(expected, student), atol=1e-6)


def test_known_values():
    # Probabilities of 1/2 and of 1: w is 1/0.501 and 1/1.001, half their difference is 0.498504.
    student = np.array([[0.0, 0.0], [100.0, 0.0]], "float32")
    np.testing.assert_allclose(confidence_temperature(student, beta=1.0), [1 - 0.498504, 1 + 0.498504], rtol=1e-5)
    # 1 - 4 * 0.4985 is clipped to 0.1.
    np.testing.assert_allclose(confidence_temperature(student, beta=4.0), [0.1, 2.994017], rtol=1e-5)


def test_padded_positions_are_excluded_from_the_mean():
    student = features(2, 4, 5)
    weight = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], "float32")
    factors = np.asarray(confidence_temperature(student, position_weight=weight))[weight > 0]
    np.testing.assert_allclose(factors, reference(student[weight > 0], 1.0, 0.25), rtol=1e-5)


def test_equal_confidence_keeps_the_temperature_of_the_loss():
    student, teacher = np.repeat(features(1, 5), 3, axis=0), features(3, 5, seed=1)
    plain = KLDivergence(4.0).compare(student, teacher, Batch(None))
    np.testing.assert_allclose(ConfidenceTemperature().compare(student, teacher, Batch(None)), plain, rtol=1e-5)


def test_saves_the_inner_loss():
    loss = ConfidenceTemperature(DecoupledKD(beta=2.0), beta=0.5)
    assert loss.needs_labels and not ConfidenceTemperature().needs_labels
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(revived.loss, DecoupledKD) and revived.loss.beta == 2.0 and revived.beta == 0.5
    student, teacher, batch = features(3, 5), features(3, 5, seed=1), Batch(None, np.array([0, 1, 2]))
    factor = reference(student, 1.0, 0.5)[:, None]
    expected = DecoupledKD(beta=2.0).compare(student / factor, teacher / factor, batch)
    np.testing.assert_allclose(revived.compare(student, teacher, batch), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [Hint(), "kl", 2.0])
def test_rejects_other_losses(loss):
    with pytest.raises(ValueError, match="ConfidenceTemperature takes a loss of logits"):
        ConfidenceTemperature(loss)
