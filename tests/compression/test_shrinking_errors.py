"""Layers and models that `shrink` cannot adapt, and custom layers that it can."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill.compression import shrink

register = keras.saving.register_keras_serializable("tests_shrinking")


@register
class Scale(keras.layers.Layer):
    """Weights of the width of the input; no arguments."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * self.scale


@register
class FixedScale(Scale):
    """Weights of a fixed width."""

    def build(self, shape):
        super().build((64,))


@register
class FixedOutput(keras.layers.Layer):
    """Output of a fixed width, which the config does not name."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 64), name="kernel")

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel)


@register
class Mix(keras.layers.Layer):
    """Width by an argument of another name, beside another integer."""

    def __init__(self, dim, steps=3, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.steps, self.dense = dim, steps, keras.layers.Dense(dim)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return super().get_config() | {"dim": self.dim, "steps": self.steps}


@register
class ResidualMix(Mix):
    """Output that is added to the input."""

    def call(self, inputs):
        return inputs + self.dense(inputs)


@register
class Network(keras.Model):
    """Subclassed model with a config."""

    def __init__(self, units=64, classes=4, num_layers=4, output_dim=2, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"units": units, "classes": classes, "num_layers": num_layers, "output_dim": output_dim}
        self.hidden = [keras.layers.Dense(units, name=f"hidden_{number}") for number in range(num_layers)]
        self.heads = [keras.layers.Dense(classes, name="classes"), keras.layers.Dense(output_dim, name="box")]

    def call(self, inputs):
        for layer in self.hidden:
            inputs = layer(inputs)
        return [head(inputs) for head in self.heads]

    def get_config(self):
        return super().get_config() | self.settings


class Opaque(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs)


class FunctionalSubclass(keras.Model):
    def __init__(self, **kwargs):
        inputs = keras.Input((8,))
        super().__init__(inputs, keras.layers.Dense(3)(keras.layers.Dense(16, name="hidden")(inputs)), **kwargs)


def chain(*layers):
    first, last = keras.layers.Dense(64, name="first"), keras.layers.Dense(3, name="logits")
    return keras.Sequential([keras.Input((8,)), first, *layers, last], name="chain")


def ones(model):
    return np.ones((2, 8), "float32")


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (
            keras.layers.Lambda(lambda x: 2 * x, name="double"),
            r"Layer 'double' \(Lambda\) holds a function .* Replace it",
        ),
        (FixedScale(name="fixed"), r"Layer 'fixed' \(FixedScale\) does not take inputs of another width than 64"),
        (
            FixedOutput(name="fixed"),
            r"Layer 'fixed' \(FixedOutput\) has an output .*\(None, 64\).* cannot be determined",
        ),
    ],
)
def test_names_the_layer_that_cannot_be_narrowed(layer, expected):
    with pytest.raises(ValueError, match=expected):
        shrink(chain(layer), 0.5)


def test_a_reshape_whose_channels_are_before_the_last_axis():
    small = shrink(chain(keras.layers.Reshape((64, 1), name="reshape"), keras.layers.Flatten()), 0.5)
    assert small.get_layer("reshape").target_shape == (32, 1)


@pytest.mark.parametrize("layer", [Scale, lambda **names: Mix(64, **names), lambda **names: ResidualMix(64, **names)])
def test_custom_layers_that_follow_their_input_or_their_config(layer, tmp_path):
    model = chain(layer(name="custom"))
    small = shrink(model, 0.5)
    assert small.get_layer("first").units == 32 and small.get_layer("custom").weights[0].shape[-1] == 32
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(ones(small)), small(ones(small)), rtol=1e-5)
    # An integer that is no width stays.
    assert getattr(small.get_layer("custom"), "steps", 3) == 3


@register
class Declared(keras.layers.Layer):
    """Output shape that is declared, not inferred."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(64, 64), name="kernel")

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel)

    def compute_output_shape(self, shape):
        return shape


def test_a_layer_that_only_declares_its_output_shape():
    with pytest.raises(ValueError, match="A narrower 'chain' does not run: .*Declared"):
        shrink(chain(Declared(name="declared")), 0.5)


def test_a_subclassed_model_with_a_config():
    model = Network(name="network")
    outputs = model(np.ones((2, 8), "float32"))
    small = shrink(model, 0.5, 0.5)
    # `output_dim` would change an output.
    assert small.settings == {"units": 32, "classes": 4, "num_layers": 2, "output_dim": 2}
    assert type(small) is Network
    assert [output.shape for output in small(ones(model))] == [output.shape for output in outputs]


def test_a_subclassed_model_without_a_config():
    model = Opaque(name="opaque")
    model(np.ones((2, 8), "float32"))
    with pytest.raises(ValueError, match=r"'opaque' \(Opaque\) has no graph of layers, and its config has no integers"):
        shrink(model, 0.5)


def test_a_subclassed_model_that_was_never_called():
    with pytest.raises(ValueError, match="The input shapes of 'draft' are unknown"):
        shrink(Network(name="draft"), 0.5)


def test_a_functional_subclass_without_a_config_is_rebuilt_from_its_graph():
    small = shrink(FunctionalSubclass(name="functional"), 0.5)
    assert small.get_layer("hidden").units == 8 and small(ones(small)).shape == (2, 3)


def test_a_layer_without_a_config():
    class Nameless(keras.layers.Layer):
        def __init__(self, function, **kwargs):
            super().__init__(**kwargs)
            self.function = function

        def call(self, inputs):
            return self.function(inputs)

    with pytest.raises(ValueError, match=r"Layer 'nameless' \(Nameless\) has no config. Implement its `get_config`"):
        shrink(chain(Nameless(ops.relu, name="nameless")), 0.5)


def test_a_slice_of_narrowed_channels():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(64, name="first")(inputs)[:, :40]
    with pytest.raises(ValueError, match=r"Layer 'get_item\w*' \(GetItem\) has the output shape \[\(None, 32\)\]"):
        shrink(keras.Model(inputs, keras.layers.Dense(3)(x)), 0.5)


def test_a_width_that_is_added_to_constants_is_kept():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(64, name="kept")(inputs) + np.ones(64, "float32")
    small = shrink(keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(64, name="hidden")(x))), 0.5)
    assert small.get_layer("kept").units == 64 and small.get_layer("hidden").units == 32
