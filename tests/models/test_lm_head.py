"""Language-model heads."""

import keras
import numpy as np
import pytest

from keras_distill import HiddenStates
from keras_distill.models.lm_head import LMHead
from tests.support.helpers import features, mlp


def test_returns_the_input_of_the_last_layer():
    model, x = mlp(), features(3, 8)
    hidden = HiddenStates(model)
    np.testing.assert_array_equal(hidden(x), model.get_layer("features")(x))
    np.testing.assert_array_equal(model.get_layer("logits")(hidden(x)), model(x))
    assert len(hidden.trainable_variables) == len(model.trainable_variables) == 4


def test_masks_and_nested_inputs_are_supported():
    tokens = {"a": keras.Input((None,), dtype="int32", name="a"), "b": keras.Input((None,), dtype="int32", name="b")}
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    x = keras.layers.Add()([embedding(tokens["a"]), embedding(tokens["b"])])
    model = keras.Model(tokens, keras.layers.Dense(5)(x))
    x = np.array([[1, 2, 0]])
    hidden = HiddenStates(model)({"a": x, "b": x})
    assert hidden.shape == (1, 3, 4)
    np.testing.assert_array_equal(hidden._keras_mask, [[True, True, False]])


def test_saving_includes_the_whole_model(tmp_path):
    model, x = mlp(), features(3, 8)
    HiddenStates(model).save(tmp_path / "body.keras")
    loaded = keras.saving.load_model(tmp_path / "body.keras")
    np.testing.assert_array_equal(loaded.model(x), model(x))
    np.testing.assert_array_equal(loaded(x), HiddenStates(model)(x))


def test_models_without_a_last_layer_raise():
    with pytest.raises(
        ValueError, match="`model` must be a functional or sequential keras.Model that is built. Received"
    ):
        HiddenStates(lambda x: x)
    with pytest.raises(ValueError, match="must be a functional or sequential"):
        HiddenStates(keras.Sequential([keras.layers.Dense(3)]))
    x = keras.Input((4,))
    first, second = keras.layers.Dense(3, name="first")(x), keras.layers.Dense(3, name="second")(x)
    with pytest.raises(ValueError, match="'two' does not end in a layer 'second' that is called once"):
        HiddenStates(keras.Model(x, [first, second], name="two"))
    twice = keras.layers.Dense(4, name="twice")
    with pytest.raises(ValueError, match="'loop' does not end in a layer 'twice' that"):
        HiddenStates(keras.Model(x, twice(twice(x)), name="loop"))


def test_without_a_layer_activations_are_logits():
    logits = features(3, 5)
    np.testing.assert_array_equal(LMHead().logits(logits, [], []), logits)
    assert LMHead().shape((None, 5)) == (None, 5)
