"""Sample weights that spoil training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence
from keras_distill.preflight import check
from tests.support.checked_models import clusters, healthy_distiller, only_finding
from tests.support.helpers import crossentropy

pytestmark = pytest.mark.case("E15")


def dataset(weights):
    x, y = clusters()
    return tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(32)


def weights_with(value, count):
    weights = np.ones(256, "float32")
    weights[:count] = value
    return weights


@pytest.mark.parametrize(
    ("weights", "name", "seen"),
    [
        (weights_with(np.nan, 3), "not finite", "3 non-finite values in 8 batches."),
        (weights_with(-2.0, 5), "negative sample weights", "5 of 256, e.g. [-2.0]."),
        (np.zeros(256), "sample weights all 0", "256 of 256 are 0."),
        (np.zeros((256, 1), "int32"), "sample weights all 0", "256 of 256 are 0."),
    ],
)
def test_invalid_weights(weights, name, seen, teacher):
    finding = only_finding(check(healthy_distiller(teacher), dataset(weights), batches=8), name, "The sample weights")
    assert finding.seen == seen


def test_weights_of_0_and_above_are_valid(teacher):
    weights = (np.arange(256) % 3).astype("float32")
    assert check(healthy_distiller(teacher), dataset(weights), batches=8) == []


def test_weights_of_one_of_several_outputs():
    def heads(name):
        inputs = keras.Input((8,))
        outputs = {key: keras.layers.Dense(4, name=key)(inputs) for key in ("topic", "tone")}
        return keras.Model(inputs, outputs, name=name)

    terms = [Term(KLDivergence(2.0), "output[topic]", "output[topic]")]
    distiller = Distiller(student=heads("student"), teacher=heads("teacher"), terms=terms)
    distiller.compile("adam", {"topic": crossentropy(), "tone": crossentropy()})
    x, y = clusters()
    weights = {"topic": np.ones(256), "tone": -np.ones(256)}
    data = tf.data.Dataset.from_tensor_slices((x, {"topic": y, "tone": y}, weights)).batch(32)
    finding = only_finding(check(distiller, data), "negative sample weights", "The sample weights 'tone'")
    assert finding.seen == "256 of 256, e.g. [-1.0]."
