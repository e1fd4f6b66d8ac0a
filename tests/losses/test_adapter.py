"""Keras losses and functions as terms."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term, load_distiller
from keras_distill.losses import Hint, KLDivergence, LossAdapter
from tests.support.helpers import compiled, data, features, fitted, mlp


@keras.saving.register_keras_serializable("tests")
def absolute(student, teacher):
    return keras.ops.mean(keras.ops.abs(student - teacher), axis=-1)


def keras_style(y_true, y_pred):
    # Not symmetric: it shows which side is which.
    return keras.ops.mean(y_pred - 2.0 * y_true, axis=-1)


def own_style(student, teacher):
    # Not symmetric, and the other order of the parameters.
    return keras.ops.mean(student - 2.0 * teacher, axis=-1)


def numpy_huber(error, delta):
    small = np.abs(error) <= delta
    return np.where(small, error**2 / 2, delta * np.abs(error) - delta**2 / 2).mean(-1)


CASES = {
    "mse": ("mse", lambda s, t: ((s - t) ** 2).mean(-1), "mean_squared_error"),
    "mae": (keras.losses.MeanAbsoluteError(), lambda s, t: np.abs(s - t).mean(-1), "mean_absolute_error"),
    "huber": (keras.losses.Huber(0.5), lambda s, t: numpy_huber(s - t, 0.5), "huber"),
    "sum": (keras.losses.MeanSquaredError(reduction="sum"), lambda s, t: ((s - t) ** 2).mean(-1), "mean_squared_error"),
    "log_cosh": (keras.losses.LogCosh(), lambda s, t: np.log(np.cosh(s - t)).mean(-1), "log_cosh"),
    "cosine": (
        keras.losses.CosineSimilarity(),
        lambda s, t: -(s * t).sum(-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1),
        "cosine_similarity",
    ),
    # Keras divides by the target, at least 1e-7 in float32, and multiplies by 100.
    "percentage": (
        keras.losses.MeanAbsolutePercentageError(),
        lambda s, t: (100 * np.abs(t - s) / np.maximum(np.abs(t), 1e-7)).mean(-1),
        "mean_absolute_percentage_error",
    ),
    "function": (absolute, lambda s, t: np.abs(s - t).mean(-1), "absolute"),
    "keras style": (keras_style, lambda s, t: (s - 2 * t).mean(-1), "keras_style"),
    "own style": (own_style, lambda s, t: (s - 2 * t).mean(-1), "own_style"),
}


@pytest.mark.case("C3")
@pytest.mark.parametrize("case", CASES)
def test_matches_numpy(case):
    loss, reference, name = CASES[case]
    student, teacher = mlp(8), mlp(8, name="teacher")
    (x, y), term = data(), Term(loss, "logits", "logits")
    logits = [model.predict(x, verbose=0) for model in (student, teacher)]
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=[term]), keras.optimizers.SGD(0.0))
    logged = fitted(distiller, x, y)
    expected = reference(*(np.float64(values) for values in logits))
    np.testing.assert_allclose(logged[f"{name}_loss"][0], expected.mean(), rtol=1e-4)


def test_positions_are_averaged_and_sample_weights_apply():
    def tokens(name):
        return keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(6, name="hidden")], name=name)

    student, teacher = tokens("student"), tokens("teacher")
    x, weight = features(8, 5, 4), np.arange(8.0)
    distiller = Distiller(student=student, teacher=teacher, terms=[Term("mse")])
    distiller.compile(keras.optimizers.SGD(0.0))
    logged = fitted(distiller, x, np.zeros((8, 5, 6)), sample_weight=weight)
    errors = ((student.predict(x, verbose=0) - teacher.predict(x, verbose=0)) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(logged["loss"][0], (errors * weight).mean(), rtol=1e-5)


@pytest.mark.case("C3")
def test_bare_losses_become_terms():
    distiller = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[KLDivergence(2.0), "mse", absolute])
    assert [term.name for term in distiller.terms] == ["kl_divergence", "mean_squared_error", "absolute"]
    single = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=keras.losses.Huber())
    assert [type(term.loss) for term in single.terms] == [LossAdapter]
    assert isinstance(Term(Hint()).loss, Hint)


OF_PROBABILITIES = {
    "binary_crossentropy": "BinaryKD",
    "binary_focal_crossentropy": "BinaryKD",
    "categorical_crossentropy": "KLDivergence",
    "categorical_focal_crossentropy": "KLDivergence",
    "categorical_generalized_cross_entropy": "KLDivergence",
    "categorical_hinge": "KLDivergence",
    "circle": "RelationalKD",
    "ctc": "KLDivergence",
    "dice": "KLDivergence",
    "hinge": "BinaryKD",
    "kl_divergence": "KLDivergence",
    "poisson": "LogitMSE",
    "sparse_categorical_crossentropy": "KLDivergence",
    "squared_hinge": "BinaryKD",
    "tversky": "KLDivergence",
}


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_keras_losses_of_probabilities_raise_and_name_ours(name):
    message = rf"Use keras_distill.losses.{OF_PROBABILITIES[name]}\(\)"
    with pytest.raises(ValueError, match=message):
        Term(getattr(keras.losses, name))
    cls = next(c for n, c in vars(keras.losses).items() if n.lower() == name.replace("_", "") and isinstance(c, type))
    with pytest.raises(ValueError, match=message):
        Term(cls())


def test_subclasses_of_keras_losses_of_probabilities_raise():
    class Smoothed(keras.losses.CategoricalCrossentropy):
        def call(self, y_true, y_pred):
            return super().call(0.9 * y_true + 0.1, y_pred)

    class Scaled(keras.losses.MeanSquaredError):
        def call(self, y_true, y_pred):
            return 2.0 * super().call(y_true, y_pred)

    with pytest.raises(ValueError, match="keras.losses.CategoricalCrossentropy compares labels"):
        Term(Smoothed())
    assert isinstance(Term(Scaled()).loss, LossAdapter)


def test_every_keras_loss_is_of_values_or_of_probabilities():
    values = {
        "cosine_similarity",
        "huber",
        "log_cosh",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_error",
        "mean_squared_logarithmic_error",
    }
    functions = {n for n in dir(keras.losses) if n.islower() and not n.startswith("_")} - {
        "deserialize",
        "get",
        "serialize",
    }
    assert functions == values | set(OF_PROBABILITIES)
    for name in values:
        Term(getattr(keras.losses, name))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda a, b: a, r"must have the parameters \(student, teacher\) or \(y_true, y_pred\)"),
        (lambda student: student, r"Received: <lambda>\(student\)"),
        (3, "The loss of a Term must be a loss of keras_distill.losses.*Received: 3"),
        (
            KLDivergence,
            r"^A loss function must have the parameters \(student, teacher\) or \(y_true, y_pred\)\. "
            r"Received: KLDivergence\(",
        ),
    ],
)
def test_other_losses_raise(loss, message):
    with pytest.raises(ValueError, match=message):
        Term(loss)


def test_a_function_that_returns_a_scalar_raises():
    def scalar(student, teacher):
        return keras.ops.mean(student - teacher)

    with pytest.raises(ValueError, match="'scalar' must return one value per example"):
        Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(scalar)])


@pytest.mark.parametrize("loss", ["mse", keras.losses.Huber(0.3), absolute], ids=["name", "object", "function"])
def test_is_saved_with_the_distiller(loss, tmp_path):
    teacher, (x, y) = mlp(name="teacher"), data()
    first = compiled(Distiller(student=mlp(), teacher=teacher, terms=[loss]))
    fitted(first, x, y)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    assert fitted(first, x, y) == fitted(second, x, y)
