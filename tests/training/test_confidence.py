"""`Confidence`: weights of positions from the class scores of the teacher; weights in Keras losses."""

import keras
import numpy as np
import pytest

from keras_distill import Confidence, Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.heads import MLP
from keras_distill.losses import Hint
from keras_distill.models.specs import Spec
from tests.support.helpers import features, fitted, softmax, zero_rate_sgd


def detector(channels, name):
    """Return a model with a feature map and class scores, at half its resolution."""
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(channels, 3, 2, "same", name="neck")(inputs)
    scores = keras.layers.Conv2D(5, 1, 2, name="scores")(maps)
    return keras.Model(inputs, {"boxes": keras.layers.Conv2D(4, 1, 2)(maps), "scores": scores}, name=name)


def activation_of(model, layer, x):
    return keras.Model(model.inputs, model.get_layer(layer).output)(x).numpy().astype("float64")


@pytest.mark.parametrize(
    ("activation", "probabilities"),
    [("sigmoid", lambda z: 1 / (1 + np.exp(-z))), ("softmax", softmax), (None, np.abs)],
)
def test_weights_are_the_largest_probability_at_each_position(activation, probabilities):
    scores = features(2, 3, 4, 5)
    scores = np.abs(scores) if activation is None else scores
    weights = Confidence("scores", activation)(Batch(None), {"scores": scores})
    np.testing.assert_allclose(weights, probabilities(scores.astype("float64")).max(-1), rtol=1e-5)


def test_a_tap_that_no_term_compares_is_read(tmp_path):
    keras.utils.set_random_seed(0)
    student, teacher = detector(4, "student"), detector(6, "teacher")
    term = Term(Hint(), "neck", "neck", head=MLP(), positions=Confidence("scores"), over="tokens", name="neck")
    assert term.teacher_taps == ("neck", "scores")
    distiller = Distiller(student=student, teacher=teacher, terms=[term])
    distiller.compile(zero_rate_sgd())
    x = 3 * features(4, 8, 8, 3)
    mapped = np.asarray(distiller.heads[0](activation_of(student, "neck", x).astype("float32")))
    error = ((mapped - activation_of(teacher, "neck", x)) ** 2).mean(-1)
    weight = (1 / (1 + np.exp(-activation_of(teacher, "scores", x)))).max(-1)
    # Scores at half the resolution: each weights four positions of the feature map.
    weight = weight.repeat(2, axis=1).repeat(2, axis=2)
    expected = (weight * error).sum() / weight.sum()
    np.testing.assert_allclose(fitted(distiller, x)["neck_loss"], [expected], rtol=1e-4)
    distiller.save(tmp_path / "distiller.keras")
    loaded = load_distiller(tmp_path / "distiller.keras", teacher)
    np.testing.assert_allclose(loaded.evaluate(x, verbose=0, return_dict=True)["neck_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "of_difference"),
    [
        ("mae", np.abs),
        ("mse", np.square),
        (keras.losses.Huber(0.5), lambda d: np.where(np.abs(d) < 0.5, d**2 / 2, 0.5 * (np.abs(d) - 0.25))),
        (keras.losses.LogCosh(), lambda d: np.log(np.cosh(d))),
    ],
    ids=["mae", "mse", "huber", "log_cosh"],
)
@pytest.mark.parametrize("over", ["examples", "tokens"])
def test_keras_losses_with_weights_of_positions(loss, of_difference, over):
    student, teacher = features(3, 4, 5, 6), features(3, 4, 5, 6, seed=1)
    weight = np.random.default_rng(2).uniform(size=(3, 4, 5)).astype("float32")
    spec = Spec((None, 4, 5, 6), "float32", "")
    term = Term(loss, positions="weight", over=over, name="t").build(spec, spec)
    values = np.mean(term.compare(student, teacher, Batch(None), activations={"weight": weight}))
    error = of_difference((student - teacher).astype("float64")).mean(-1) * weight
    of_examples = np.mean(error.sum((1, 2)) / weight.sum((1, 2)))
    np.testing.assert_allclose(values, of_examples if over == "examples" else error.sum() / weight.sum(), rtol=1e-5)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"`activation` must be one of \['sigmoid', 'softmax', None\]"):
        Confidence("scores", "relu")
    with pytest.raises(ValueError, match="`tap` must be a tap of the teacher"):
        Confidence(("a", "b"))
