"""Blocks with tied weights."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.compression import tie_weights
from keras_distill.losses import KLDivergence
from tests.support.helpers import compiled, data


def residual(blocks=4):
    """A model whose blocks consist of layers of the model."""
    inputs = x = keras.Input((8,))
    for number in range(1, blocks + 1):
        y = keras.layers.Dense(8, activation="tanh", name=f"block_{number}_dense")(x)
        x = keras.layers.BatchNormalization(name=f"block_{number}_bn")(x + y)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name="residual")


def nested():
    """A model with a nested model whose blocks are models."""

    def block(number):
        layers = [keras.Input((8,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(8, name="out")]
        return keras.Sequential(layers, name=f"block_{number}")

    inputs = x = keras.Input((8,))
    for number in range(3):
        x = block(number)(x)
    backbone = keras.Model(inputs, x, name="backbone")
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(backbone(inputs)), name="nested")


def reference(weights, x):
    """The output of `residual` in NumPy, with the Dense weights of the first block in all blocks."""
    kernel, bias = weights["block_1_dense"]
    for number in range(1, 5):
        x = x + np.tanh(x @ kernel + bias)
        gamma, beta, mean, variance = weights[f"block_{number}_bn"]
        x = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    kernel, bias = weights["logits"]
    return x @ kernel + bias


def test_all_blocks_use_the_weights_of_the_first():
    model = residual()
    for layer in model.layers:
        layer.set_weights([np.random.default_rng(1).uniform(0.5, 1, weight.shape) for weight in layer.get_weights()])
    tied = tie_weights(model, [f"block_{number}_*" for number in range(1, 5)], exclude=["*_bn"])
    x = data(5)[0]
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    np.testing.assert_allclose(tied(x), reference(weights, x), rtol=1e-4, atol=1e-5)


def test_weights_are_counted_saved_and_exported_once(tmp_path):
    model = residual()
    tied = tie_weights(model, [f"block_{number}_*" for number in range(1, 5)], exclude=["*_bn"])
    # One of four Dense layers with 8 x 8 + 8 weights remains.
    assert model.count_params() - tied.count_params() == 3 * 72
    sizes = []
    for name, variant in (("original", model), ("tied", tied)):
        variant.save_weights(tmp_path / f"{name}.weights.h5")
        sizes.append((tmp_path / f"{name}.weights.h5").stat().st_size)
        variant.export(tmp_path / name, verbose=False)
    assert sizes[1] < sizes[0]
    original_size, tied_size = (
        next((tmp_path / name).rglob("variables.data*")).stat().st_size for name in ("original", "tied")
    )
    assert original_size - tied_size >= 3 * 72 * 4
    tied.save(tmp_path / "tied.keras")
    loaded = keras.saving.load_model(tmp_path / "tied.keras")
    assert loaded.count_params() == tied.count_params()
    x = data(5)[0]
    np.testing.assert_array_equal(loaded(x), tied(x))
    # The weights are still tied: a change in one block changes all.
    loaded.get_layer("block_1_dense").kernel.assign_add(np.ones((8, 8)))
    assert np.abs(loaded(x) - tied(x)).max() > 1e-3


def test_the_model_is_not_modified():
    model = residual()
    before = model.get_weights()
    tied = tie_weights(model, [f"block_{number}_*" for number in range(1, 5)], exclude=["*_bn"])
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in tied.weights}
    compiled(tied).fit(*data(), verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_blocks_in_nested_models():
    model = nested()
    tied = tie_weights(model, ["block_0", "block_1", "block_2"])
    assert model.count_params() - tied.count_params() == 2 * (8 * 16 + 16 + 16 * 8 + 8)
    partly_tied = tie_weights(model, ["block_0", "block_1", "block_2"], exclude=["*/out"])
    assert model.count_params() - partly_tied.count_params() == 2 * (8 * 16 + 16)


def test_a_student_with_tied_blocks_can_be_distilled():
    teacher = residual()
    tied = tie_weights(residual(), [f"block_{number}_*" for number in range(1, 5)], exclude=["*_bn"])
    terms = [Term(KLDivergence()), *(Term(*_hint(number)) for number in range(4))]
    history = compiled(Distiller(student=tied, teacher=teacher, terms=terms)).fit(*data(), epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def _hint(number):
    from keras_distill.losses import Hint

    return Hint(), f"block_1_dense@{number}", f"block_{number + 1}_dense"


def test_rejects_blocks_that_cannot_be_tied():
    with pytest.raises(ValueError, match="`blocks` must name two or more blocks"):
        tie_weights(residual(), ["block_1_*"])
    with pytest.raises(ValueError, match="No layer called 'block_9'"):
        tie_weights(nested(), ["block_0", "block_9"])
    with pytest.raises(ValueError, match=r"'logits' cannot share the weights of 'block_1_dense'.*\(8, 3\).*`exclude=`"):
        tie_weights(residual(), ["block_1_dense", "logits"])

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = keras.layers.Dense(8, name="one"), keras.layers.Dense(8, name="two")

        def call(self, x):
            return self.two(self.one(x))

    model = Subclassed()
    model(np.zeros((1, 8)))
    with pytest.raises(ValueError, match="is not a functional or Sequential model"):
        tie_weights(model, ["one", "two"])
