"""Copies of a model with another dtype policy."""

import keras
import numpy as np
import pytest

from keras_distill.models.dtype_policies import with_dtype_policy
from keras_distill.models.layers import walk_layers
from tests.support.helpers import data, mlp


def nested():
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "relu"), keras.layers.BatchNormalization()])
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(3)(inner(inputs)), name="nested")


@pytest.mark.parametrize("make", [mlp, nested])
def test_layers_compute_in_the_policy_with_the_same_weights(make):
    model, (x, _) = make(), data(16)
    before = model(x).numpy()
    copy = with_dtype_policy(model, "mixed_bfloat16")
    layers = [layer for _, layer in walk_layers(copy) if layer.weights and not isinstance(layer, keras.Model)]
    assert {(layer.compute_dtype, layer.variable_dtype) for layer in layers} == {("bfloat16", "float32")}
    for weight, other in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    np.testing.assert_allclose(copy(x).numpy().astype("float32"), before, rtol=0.05, atol=0.05)
    # The given model is not modified.
    np.testing.assert_array_equal(model(x), before)
    np.testing.assert_allclose(with_dtype_policy(copy, "float32")(x), before, rtol=1e-5, atol=1e-6)


def test_the_copy_can_be_saved(tmp_path):
    with_dtype_policy(mlp(), "mixed_float16").save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[0].compute_dtype == "float16"
