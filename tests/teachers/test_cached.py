"""Teachers backed by activations in memory."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.data.batch import with_activations
from keras_distill.losses import KLDivergence
from keras_distill.teachers import CachedTeacher
from tests.support.helpers import compiled, data, features, fitted, mlp, softened_kl, softmax, zero_rate_sgd

PROBABILITIES = softmax(features(24, 3)).astype("float32")


@pytest.mark.case("F3")
@pytest.mark.parametrize(
    "probabilities",
    [
        PROBABILITIES,
        PROBABILITIES.astype("float16"),
        PROBABILITIES.astype("float64"),
        np.eye(3)[data()[1]],
        softmax(features(24, 4, 3)),
        tf.constant(PROBABILITIES),
    ],
)
@pytest.mark.parametrize("tap", ["output", "output[scores]"])
def test_probabilities_are_refused(probabilities, tap):
    with pytest.raises(ValueError, match=r"are probabilities: .* `np.log\(probabilities\)`"):
        CachedTeacher({tap: probabilities})


@pytest.mark.case("F3")
@pytest.mark.parametrize(
    "activations",
    [
        {"output": features(24, 3)},
        {"output": np.zeros((24, 3))},
        {"output": np.ones((24, 1))},
        {"output": 2 * PROBABILITIES},
        {"output": tf.TensorSpec((None, 3))},
        # Attention over positions.
        {"attention": PROBABILITIES},
    ],
)
def test_other_activations_are_accepted(activations):
    assert set(CachedTeacher(activations).stored) == set(activations)


@pytest.mark.case("F3")
def test_the_logarithms_are_logits_of_the_same_softmax():
    x, y = data()
    logits = np.log(PROBABILITIES)
    student = mlp()
    distiller = Distiller(student=student, teacher=CachedTeacher({"output": logits}), terms=[Term(KLDivergence(1.0))])
    history = fitted(compiled(distiller, zero_rate_sgd()), with_activations(x, {"output": logits}), y)
    expected = softened_kl(np.array(student(x)), np.log(PROBABILITIES.astype("float64")), 1.0).mean()
    assert history["kl_divergence_loss"][0] == pytest.approx(expected, rel=1e-5)
