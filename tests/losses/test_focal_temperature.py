import keras
import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import DecoupledKD, FocalTemperature, Hint, KLDivergence
from keras_distill.losses.focal_temperature import focal_temperature
from tests.support.helpers import central_differences, features, softened_kl, value_and_gradient


def reference(student, teacher, base, beta, gamma):
    """TextBrewer's temperatures: `beta` is added to the base, not to a multiple of it."""
    student, teacher = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (student, teacher))
    weight = (1 - (student * teacher).sum(axis=-1)) ** gamma
    return base + (weight.mean() - weight) * beta


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 6)])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_matches_the_published_code(shape, gamma):
    student, teacher = (features(*shape, seed=seed, scale=2.0).astype("float64") for seed in (0, 1))
    temperatures = reference(student, teacher, 4.0, 1.0, gamma)
    np.testing.assert_allclose(4.0 * focal_temperature(student, teacher, 0.25, gamma), temperatures, rtol=1e-5)

    def expected(student):
        # The temperatures have no gradient; the factor of the loss remains 4^2.
        divergence = softened_kl(student / temperatures[..., None], teacher / temperatures[..., None], 1.0)
        return 4.0**2 * divergence.mean()

    loss = FocalTemperature(KLDivergence(4.0), beta=0.25, gamma=gamma)
    value, gradient = value_and_gradient(lambda s: loss.compare(s, teacher, Batch(None)), student.astype("float32"))
    np.testing.assert_allclose(value, expected(student), rtol=1e-5)
    np.testing.assert_allclose(gradient, central_differences(expected, student), atol=1e-6)


def test_known_values():
    # 1 - cos is 0 for the first two, 1 for a right angle and 2 for opposite directions; the mean is 3/4.
    student = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], "float32")
    teacher = np.array([[2.0, 0.0]] * 4, "float32")
    np.testing.assert_allclose(focal_temperature(student, teacher, beta=0.4), [1.3, 1.3, 0.9, 0.5], rtol=1e-6)
    # mean(w^2) is 5/4; 1 - 0.4 * 2.75 = -0.1 is clipped to 0.1.
    np.testing.assert_allclose(focal_temperature(student, teacher, 0.4, 2.0), [1.5, 1.5, 1.1, 0.1], rtol=1e-6)


def test_padded_positions_are_excluded_from_the_mean():
    student, teacher = features(2, 4, 5), features(2, 4, 5, seed=1)
    weight = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], "float32")
    factors = np.asarray(focal_temperature(student, teacher, position_weight=weight))[weight > 0]
    np.testing.assert_allclose(factors, reference(student[weight > 0], teacher[weight > 0], 1.0, 0.25, 1.0), rtol=1e-5)
    np.testing.assert_allclose(factors.mean(), 1.0, rtol=1e-6)


def test_default_is_the_loss_of_kl_divergence_at_4():
    student, teacher = features(2, 3, 5), features(2, 3, 5, seed=1)
    batch = Batch(None, position_weight=np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], "float32"))
    default, named = FocalTemperature(), FocalTemperature(KLDivergence(4.0))
    np.testing.assert_allclose(default.compare(student, teacher, batch), named.compare(student, teacher, batch))


def test_saves_the_inner_loss():
    loss = FocalTemperature(DecoupledKD(beta=2.0), beta=0.5)
    assert loss.needs_labels and not FocalTemperature().needs_labels
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(revived.loss, DecoupledKD) and revived.loss.beta == 2.0 and revived.beta == 0.5
    student, teacher, batch = features(3, 5), features(3, 5, seed=1), Batch(None, np.array([0, 1, 2]))
    factor = reference(student, teacher, 1.0, 0.5, 1.0)[:, None]
    expected = DecoupledKD(beta=2.0).compare(student / factor, teacher / factor, batch)
    np.testing.assert_allclose(revived.compare(student, teacher, batch), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [Hint(), "kl", 2.0])
def test_rejects_other_losses(loss):
    with pytest.raises(ValueError, match="FocalTemperature takes a loss of logits"):
        FocalTemperature(loss)
