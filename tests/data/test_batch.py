"""Inputs with activations and indices."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.data.batch import split_inputs, unpack
from keras_distill.losses import KLDivergence
from keras_distill.teachers import CachedTeacher, with_activations, with_index
from tests.support.helpers import compiled, data, features, fitted, mlp

INDEX = np.arange(24)


def in_both_orders(x, activations, index):
    return [
        with_index(with_activations(x, activations), index),
        with_activations(with_index(x, index), activations),
    ]


@pytest.mark.parametrize("order", [0, 1])
def test_split_inputs_reverses_with_activations_and_with_index(order):
    x, y = data()
    joined = in_both_orders(x, {"output": 2 * x}, INDEX)[order]
    inputs, activations, index = split_inputs(joined)
    assert inputs is x and index is INDEX
    np.testing.assert_array_equal(activations["output"], 2 * x)
    batch = unpack((joined, y), 3)
    assert batch.inputs is x and batch.labels is y and batch.index is INDEX and batch.step == 3


def test_missing_activations_and_index_are_none():
    x, _ = data()
    assert split_inputs(x)[0] is x and split_inputs(x)[1:] == (None, None)
    assert split_inputs(with_index(x, INDEX))[1] is None and split_inputs(with_activations(x, {"output": x}))[2] is None
    several = {"left": x, "right": x}
    assert split_inputs(with_index(several, INDEX))[0] is several and split_inputs(several)[0] is several


@pytest.mark.parametrize("order", [0, 1])
def test_examples_keep_their_index_when_shuffled(order):
    x, logits = data()[0], features(24, 3, seed=5)
    joined = in_both_orders(x, {"output": logits}, INDEX)[order]
    for batch in tf.data.Dataset.from_tensor_slices(joined).shuffle(24, seed=1).batch(8):
        inputs, activations, index = split_inputs(batch)
        np.testing.assert_array_equal(inputs, x[index.numpy()])
        np.testing.assert_array_equal(activations["output"], logits[index.numpy()])


@pytest.mark.parametrize("order", [0, 1])
def test_an_index_does_not_change_losses_that_ignore_it(order):
    (x, y), logits = data(), features(24, 3, seed=5)
    results = []
    weights = mlp().get_weights()
    for joined in (with_activations(x, {"output": logits}), in_both_orders(x, {"output": logits}, INDEX)[order]):
        student = mlp()
        student.set_weights(weights)
        model = compiled(
            Distiller(student=student, teacher=CachedTeacher({"output": logits}), terms=[Term(KLDivergence())])
        )
        logged = fitted(model, joined, y, epochs=2), model.evaluate(joined, y, verbose=0)
        results.append((*logged, model.predict(joined, verbose=0).tolist()))
    assert results[0] == results[1]
