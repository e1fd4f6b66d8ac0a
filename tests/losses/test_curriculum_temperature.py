import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.losses import CurriculumTemperature, DecoupledKD, Hint, KLDivergence, LogitStandardization
from keras_distill.losses.curriculum_temperature import curriculum_temperature
from keras_distill.schedules import CosineDecay
from tests.support.helpers import (
    central_differences,
    compiled,
    data,
    features,
    fitted,
    mlp,
    softened_kl,
    value_and_gradient,
)


def at(score, low=1.0, high=21.0):
    """Return the authors' temperature: 1 + 20 * sigmoid, of a parameter that starts at 1."""
    return low + (high - low) / (1 + np.exp(-np.asarray(score, "float64")))


def built(*shape, **settings):
    keras.utils.set_random_seed(0)
    loss = CurriculumTemperature(**settings)
    loss.build(shape, shape)
    return loss


def instance_wise_loss():
    """Return an instance-wise loss whose weights are all nonzero."""
    loss = built(None, 6, instance=True)
    for seed, weight in enumerate(loss.trainable_weights):
        weight.assign(features(*weight.shape, seed=seed, scale=0.3))
    return loss


def expected_temperatures(weights, student, teacher):
    """Compute one temperature per row by a hidden layer with ReLU over both logits."""
    bias, hidden_kernel, hidden_bias, kernel = (np.asarray(weight, "float64") for weight in weights)
    hidden = np.maximum(np.concatenate([student, teacher], axis=-1) @ hidden_kernel + hidden_bias, 0)
    return at((hidden @ kernel + bias)[..., 0])


def test_equals_distillation_at_the_current_temperature():
    student, teacher, loss = features(5, 6, scale=3), features(5, 6, seed=1, scale=3), built(None, 6)
    for score in (1.0, -2.0):
        loss.bias.assign([score])
        value, gradient = value_and_gradient(lambda s: loss.compare(s, teacher, Batch(None)), student)

        def expected(student, score=score):
            return softened_kl(student, teacher, at(score)).mean()

        np.testing.assert_allclose(value, expected(student), rtol=1e-5)
        np.testing.assert_allclose(gradient, central_differences(expected, student), atol=1e-6)


@pytest.mark.parametrize("reversal", [1.0, 0.3, 0.0])
def test_the_gradient_of_the_temperature_is_reversed(reversal):
    student, teacher = features(5, 6, scale=3), features(5, 6, seed=1, scale=3)
    loss = built(None, 6, reversal=reversal)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.compare(student, teacher, Batch(None)))
    slope = central_differences(lambda score: softened_kl(student, teacher, at(score[0])).mean(), [1.0])
    assert abs(slope) > 0.01
    np.testing.assert_allclose(tape.gradient(value, loss.trainable_weights)[0], -reversal * slope, rtol=1e-4)


def test_instance_wise_temperatures():
    student, teacher, loss = features(5, 6), features(5, 6, seed=1), instance_wise_loss()
    temperatures = expected_temperatures(loss.trainable_weights, student, teacher)
    assert np.ptp(temperatures) > 1

    def expected(student):
        # The temperatures pass no gradient to the student.
        divergence = softened_kl(student / temperatures[:, None], teacher / temperatures[:, None], 1.0)
        return (temperatures**2 * divergence).mean()

    value, gradient = value_and_gradient(lambda s: loss.compare(s, teacher, Batch(None)), student)
    np.testing.assert_allclose(value, expected(student), rtol=1e-4)
    np.testing.assert_allclose(gradient, central_differences(expected, student), atol=1e-6)

    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.compare(student, teacher, Batch(None)))
    gradients = tape.gradient(value, loss.trainable_weights)
    for index, gradient in enumerate(gradients):

        def of_weight(values, index=index):
            weights = [*loss.trainable_weights[:index], values, *loss.trainable_weights[index + 1 :]]
            temperatures = expected_temperatures(weights, student, teacher)[:, None]
            return (temperatures[:, 0] ** 2 * softened_kl(student / temperatures, teacher / temperatures, 1.0)).mean()

        slope = central_differences(of_weight, loss.trainable_weights[index])
        np.testing.assert_allclose(gradient, -slope, atol=1e-4 * np.abs(slope).max())


def test_instance_wise_and_global_temperatures_start_equal():
    student, teacher = features(2, 3, 6), features(2, 3, 6, seed=1)
    one, own = (built(None, 3, 6, instance=instance) for instance in (False, True))
    np.testing.assert_allclose(
        own.compare(student, teacher, Batch(None)), one.compare(student, teacher, Batch(None)), rtol=1e-6
    )


def test_known_values():
    # sigmoid(0) is 1/2, sigmoid(log 3) is 3/4.
    np.testing.assert_allclose(curriculum_temperature([0.0, np.log(3.0)]), [11.0, 16.0], rtol=1e-6)
    np.testing.assert_allclose(curriculum_temperature([0.0], 2.0, 6.0), [4.0], rtol=1e-6)


def test_training_moves_the_temperature_to_larger_losses():
    x, student, teacher = data(8)[0], mlp(), mlp(16, name="teacher")
    # The reversal is 0 at the first step.
    loss = CurriculumTemperature(low=0.5, high=3.0, reversal=CosineDecay(0.0, 1.0, 2))
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=[Term(loss)]), keras.optimizers.SGD(1.0))
    logits = student.predict(x, verbose=0), teacher.predict(x, verbose=0)
    student.trainable = False
    distiller.compile(keras.optimizers.SGD(1.0))
    (bias,) = distiller.trainable_variables
    scores = []
    for _ in range(3):
        fitted(distiller, x)
        scores.append(float(bias.numpy()[0]))
    assert scores[0] == 1.0
    losses = [softened_kl(*logits, at(score, 0.5, 3.0)).mean() for score in scores]
    assert losses[0] < losses[1] < losses[2]


def test_a_reloaded_distiller_resumes_training(tmp_path):
    (x, y), teacher = data(), mlp(16, name="teacher")
    loss = CurriculumTemperature(DecoupledKD(temperature=1.0), reversal=CosineDecay(0.0, 1.0, 4), instance=True)
    first = compiled(Distiller(student=mlp(), teacher=teacher, terms=[Term(loss)]), keras.optimizers.Adam(0.01))
    fitted(first, x, y)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    assert fitted(second, x, y) == fitted(first, x, y)
    assert isinstance(second.term_losses[0].loss, DecoupledKD)


def test_each_distiller_has_its_own_temperature_inside_another_loss(tmp_path):
    (x, y), teacher = data(), mlp(16, name="teacher")
    terms = [Term(LogitStandardization(CurriculumTemperature()))]
    first, second = (compiled(Distiller(student=mlp(), teacher=teacher, terms=terms)) for _ in range(2))
    assert first.term_losses[0].loss.bias is not second.term_losses[0].loss.bias
    fitted(first, x, y)
    first.save(tmp_path / "d.keras")
    resumed = load_distiller(tmp_path / "d.keras", teacher)
    assert len(resumed.term_losses[0].weights) == 1
    assert fitted(resumed, x, y) == fitted(first, x, y)


def test_default_is_the_loss_of_kl_divergence():
    student, teacher = features(2, 3, 5), features(2, 3, 5, seed=1)
    batch = Batch(None, position_weight=np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], "float32"))
    default, named = built(None, 3, 5), built(None, 3, 5, loss=KLDivergence(1.0))
    np.testing.assert_allclose(default.compare(student, teacher, batch), named.compare(student, teacher, batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": Hint()}, "CurriculumTemperature takes a loss of logits"),
        ({"low": 4.0, "high": 2.0}, "`high` must be above `low`. Received: low=4.0, high=2.0"),
        ({"reversal": -1.0}, "`reversal` must be a finite number >= 0 or a schedule"),
    ],
)
def test_rejects_invalid_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        CurriculumTemperature(**settings)
