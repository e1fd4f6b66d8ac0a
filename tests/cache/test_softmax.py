"""Caches of teachers that end in a softmax."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.cache import label, open_cache
from keras_distill.losses import BinaryKD, KLDivergence, TopK
from keras_distill.teachers import CachedTeacher
from tests.support.helpers import data, fitted, mlp


def teacher(activation="softmax"):
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(3, activation=activation)(inputs), name="teacher")


def logged(teacher, inputs, term, labels=None):
    """Losses of a step without update, the student from the same weights."""
    keras.utils.set_random_seed(1)
    distiller = Distiller(student=mlp(), teacher=teacher, terms=[term])
    distiller.compile(keras.optimizers.SGD(0.0))
    return fitted(distiller, inputs, labels)


@pytest.mark.parametrize(
    ("activation", "term"),
    [
        ("softmax", Term(KLDivergence(3.0))),
        ("sigmoid", Term(BinaryKD(2.0))),
        # Compares the probabilities themselves.
        ("softmax", Term("mse")),
    ],
    ids=["KLDivergence", "BinaryKD", "mse"],
)
def test_a_cache_gives_the_losses_of_the_online_teacher(activation, term, tmp_path):
    (x, _), model = data(), teacher(activation)
    label(model, x, tmp_path, verbose=0)
    stored = open_cache(tmp_path, model)
    cached, online = logged(stored.teacher, stored.load(x), term), logged(model, x, term)
    np.testing.assert_allclose(cached["loss"], online["loss"], rtol=1e-5)


def test_logits_are_stored(tmp_path):
    (x, _), model = data(), teacher()
    label(model, x, tmp_path, verbose=0)
    (file,) = tmp_path.glob("*output*.npy")
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(np.load(file), x @ kernel + bias, rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "manifest.json").read_text())["taps"]["output"]["function"] == "softmax"


def test_top_k_of_probabilities(tmp_path):
    (x, _), model = data(), teacher()
    label(model, x, tmp_path, top_k=2, verbose=0)
    stored = open_cache(tmp_path)
    term = Term(TopK(2, temperature=1.0))
    np.testing.assert_allclose(
        logged(stored.teacher, stored.load(x), term)["loss"], logged(model, x, term)["loss"], rtol=1e-4
    )


def test_a_teacher_of_logits_has_no_function(tmp_path):
    (x, _), model = data(), mlp(name="teacher")
    label(model, x, tmp_path, verbose=0)
    assert "function" not in json.loads((tmp_path / "manifest.json").read_text())["taps"]["output"]


def test_functions_are_checked():
    with pytest.raises(ValueError, match="`functions` must be 'softmax' or 'sigmoid' for each tap"):
        CachedTeacher({"output": tf.TensorSpec((None, 3))}, functions={"output": "relu"})


def test_top_k_of_a_sigmoid_raises(tmp_path):
    # The logits of top classes are normalized by a softmax, of which a sigmoid is not independent.
    with pytest.raises(ValueError, match="`top_k` requires the logits of a softmax, but 'output' ends in a sigmoid"):
        label(teacher("sigmoid"), data()[0], tmp_path, top_k=2, verbose=0)
    label(teacher("sigmoid"), data()[0], tmp_path, top_k=None, verbose=0)
