import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.heads import MLP
from keras_distill.losses import VariationalInformation
from keras_distill.losses.variational_information import variational_information
from tests.support.helpers import central_differences, compiled, data, features, mlp, value_and_gradient


def reference(mean, log_scale, teacher):
    """Equation 5 of the paper without the constant: log sigma + (t - mu)^2 / (2 sigma^2), as a mean."""
    sigma = np.sqrt(np.log1p(np.exp(log_scale.astype("float64"))) + 1e-5)
    return (np.log(sigma) + (teacher - mean) ** 2 / (2 * sigma**2)).mean()


def test_matches_the_paper():
    mean, teacher, scale = features(2, 3, 4, 5), features(2, 3, 4, 5, seed=1), features(5, seed=2)
    value, gradient = value_and_gradient(lambda m: variational_information(m, scale, teacher), mean)
    np.testing.assert_allclose(value, reference(mean, scale, teacher), rtol=1e-5)
    slope = central_differences(lambda m: reference(m, scale, teacher), mean)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)
    _, gradient = value_and_gradient(lambda s: variational_information(mean, s, teacher), scale)
    slope = central_differences(lambda s: reference(mean, s, teacher), scale)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Variance e^2, mean 1, teacher 1 + 2e: (4 + 2) / 2.
    scale = np.log(np.expm1(np.e**2))
    loss = variational_information(np.array([[1.0]]), np.array([scale]), np.array([[1 + 2 * np.e]]), epsilon=0.0)
    np.testing.assert_allclose(loss, [3.0], rtol=1e-6)


def test_is_least_at_the_variance_of_the_error():
    mean, teacher = features(50, 1), features(50, 1, seed=1)
    variance = np.square(mean - teacher).mean()
    losses = [
        np.mean(variational_information(mean, np.log(np.expm1(v * variance))[None], teacher)) for v in (0.9, 1, 1.1)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_the_initial_variance_is_an_argument():
    loss = VariationalInformation(variance=2.0)
    loss.build((None, 3), (None, 4))
    for kernel in loss.kernels:
        kernel.assign(0 * kernel)
    expected = (9 / 2 + np.log(2)) / 2
    values = loss.compare(np.ones((2, 3)), np.full((2, 4), 3.0), Batch(None))
    np.testing.assert_allclose(values, [expected] * 2, rtol=1e-6)
    with pytest.raises(ValueError, match="`variance` must be a finite number > 1e-05"):
        VariationalInformation(variance=1e-6)


def test_its_weights_are_trained_and_not_part_of_the_student():
    x, y = data()
    student = mlp(4)
    count = student.count_params()
    term = Term(VariationalInformation(), "features", "features", name="vid")
    distiller = compiled(Distiller(student=student, teacher=mlp(16, name="teacher"), terms=[term]))
    loss = distiller.terms[0].loss
    before = [weight.numpy() for weight in loss.weights]
    history = distiller.fit(x, y, epochs=10, verbose=0).history["vid_loss"]
    assert history[-1] < history[0]
    assert all(np.any(weight != old) for weight, old in zip(loss.weights, before))
    assert student.count_params() == count


def test_a_head_may_predict_the_mean():
    student, teacher = features(2, 4, 3, 3), features(2, 4, 3, 5, seed=1)
    whole, variances, head = VariationalInformation(), VariationalInformation(depth=0), MLP(depth=3, use_bias=False)
    whole.build((None, 4, 3, 3), (None, 4, 3, 5))
    head.build((None, 4, 3, 3), (None, 4, 3, 5))
    variances.build((None, 4, 3, 5), (None, 4, 3, 5))
    assert [tuple(weight.shape) for weight in variances.weights] == [(5,)]
    head.set_weights([kernel.numpy() for kernel in whole.kernels])
    expected = whole.compare(student, teacher, Batch(None))
    np.testing.assert_allclose(variances.compare(head(student), teacher, Batch(None)), expected, rtol=1e-5)


def test_depth_0_needs_the_teachers_width():
    models = mlp(4), mlp(16, name="teacher")
    with pytest.raises(ValueError, match=r"cannot compare student 'features' of shape \(None, 4\)"):
        Distiller(
            student=models[0], teacher=models[1], terms=[Term(VariationalInformation(depth=0), "features", "features")]
        )
    term = Term(VariationalInformation(depth=0), "features", "features", MLP(depth=3), name="vid")
    history = (
        compiled(Distiller(student=models[0], teacher=models[1], terms=[term]))
        .fit(*data(), epochs=10, verbose=0)
        .history["vid_loss"]
    )
    assert history[-1] < history[0]
    with pytest.raises(ValueError, match="`depth` must be an integer >= 0"):
        VariationalInformation(depth=-1)
