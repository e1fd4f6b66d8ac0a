"""`Taps`: activations of layers by name, call and index."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.models.layers import find_layer
from keras_distill.models.taps import Taps
from tests.support.helpers import Counter, features, mlp


def shared_layer():
    inputs = keras.Input((8,))
    shared = keras.layers.Dense(8, name="shared")
    return keras.Model(inputs, keras.layers.Dense(2)(shared(shared(shared(inputs)))), name="siamese")


def test_nth_call_of_a_shared_layer():
    model, x = shared_layer(), features(4, 8)
    activations = Taps(model, ["shared@0", "shared@2"])(x, training=False)
    dense = model.get_layer("shared")
    np.testing.assert_allclose(activations["shared@0"], dense(x), rtol=1e-6)
    np.testing.assert_allclose(activations["shared@2"], dense(dense(dense(x))), rtol=1e-5)


def test_shared_layer_without_a_call_index_raises():
    with pytest.raises(ValueError, match="'siamese' calls 'shared' 3 times per pass.*'shared@0'"):
        Taps(shared_layer(), ["shared"])(features(4, 8), training=False)
    with pytest.raises(ValueError, match="so 'shared@3' does not exist"):
        Taps(shared_layer(), ["shared@3"])(features(4, 8), training=False)


@pytest.mark.parametrize(("tap", "shape"), [("lstm[0]", (2, 5, 3)), ("lstm[1]", (2, 3)), ("lstm[2]", (2, 3))])
def test_index_into_the_outputs_of_a_layer(tap, shape):
    inputs = keras.Input((5, 4))
    sequence, hidden, cell = keras.layers.LSTM(3, return_sequences=True, return_state=True, name="lstm")(inputs)
    model = keras.Model(inputs, hidden)
    assert Taps(model, [tap])(features(2, 5, 4), training=False)[tap].shape == shape


class Heads(keras.Model):
    def __init__(self):
        super().__init__(name="heads")
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        logits = self.dense(inputs)
        return {"logits": logits, "doubled": 2 * logits}


@pytest.mark.parametrize("tap", ["output[doubled]", 'output["doubled"]', "output['doubled']"])
def test_key_of_a_model_output(tap):
    model, x = Heads(), features(4, 8)
    activations = Taps(model, [tap, "output"])(x, training=False)
    np.testing.assert_array_equal(activations[tap], activations["output"]["doubled"])
    message = (
        r"^Tap 'output\[logit\]' matches no entry of 'heads'\. "
        r"Available entries: \['(doubled', 'logits|logits', 'doubled)'\]\.$"
    )
    with pytest.raises(ValueError, match=message):
        Taps(model, ["output[logit]"])(x, training=False)


def test_output_names_of_a_functional_model():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, [keras.layers.Dense(3, name="a")(inputs), keras.layers.Dense(2, name="b")(inputs)])
    activations = Taps(model, ["output[b]", "output[1]"])(features(4, 8), training=False)
    np.testing.assert_array_equal(activations["output[b]"], activations["output[1]"])


def test_layers_created_in_build():
    class Late(keras.Model):
        def build(self, shape):
            self.dense = keras.layers.Dense(3, name="late")
            self.dense.build(shape)

        def call(self, inputs):
            return self.dense(inputs)

    model = Late()
    activations = Taps(model, ["late", "output"])(features(4, 8), training=False)
    np.testing.assert_array_equal(activations["late"], activations["output"])


def test_query_and_key_of_attention():
    inputs = keras.Input((5, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    activations = Taps(model, ["attention/query", "key"])(features(3, 5, 8), training=False)
    assert activations["attention/query"].shape == activations["key"].shape == (3, 5, 2, 4)


def test_layer_that_is_not_called_raises():
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs), name="teacher")
    taps = Taps(model, ["attention/softmax"])
    with pytest.raises(ValueError, match="'attention/softmax' of 'teacher' is not called: .* for AttentionRelation"):
        taps(features(3, 5, 8), training=False)


def test_quantized_layer_raises():
    model = mlp(name="teacher")
    model.quantize("int8")
    with pytest.raises(ValueError, match="'features' of 'teacher' is quantized.*before `quantize`"):
        Taps(model, ["features"])(features(3, 8), training=False)


def test_rnn_cell_raises():
    model = keras.Sequential([keras.Input((5, 4)), keras.layers.LSTM(3, name="lstm")], name="teacher")
    taps = Taps(model, ["lstm_cell"])
    with pytest.raises(ValueError, match="'lstm_cell' of 'teacher' runs inside a loop.*Tap the enclosing layer"):
        tf.function(lambda x: taps(x, training=False))(features(2, 5, 4))


def test_unknown_name_lists_the_closest():
    with pytest.raises(ValueError, match=r"No layer called 'featurs' in 'student'. Closest: \['features'\]"):
        find_layer(mlp(), "featurs")


def two_backbones():
    def tower(name):
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="block")], name=name)

    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Add()([tower("left")(inputs), tower("right")(inputs)]), name="twins")


def test_ambiguous_names_list_the_paths():
    model = two_backbones()
    with pytest.raises(ValueError, match=r"Several layers of 'twins' match 'block': \['left/block', 'right/block'\]"):
        find_layer(model, "block")
    assert find_layer(model, "right/block") is model.get_layer("right").get_layer("block")


def test_full_path_takes_precedence_over_a_suffix():
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="dense")], name="inner")
    outer = keras.layers.Dense(8, name="dense")
    model = keras.Model(inputs, outer(inner(inputs)))
    assert find_layer(model, "dense") is outer


def test_layer_shared_by_two_submodels_is_not_ambiguous():
    inputs, shared = keras.Input((8,)), keras.layers.Dense(8, name="shared")
    parts = [keras.Sequential([keras.Input((8,)), shared], name=name) for name in ("one", "two")]
    model = keras.Model(inputs, parts[1](parts[0](inputs)))
    assert find_layer(model, "shared") is shared


@pytest.mark.parametrize("name", ["", "a@b", "a[", "[0]", "a[0]@1", None, 3])
def test_malformed_taps_raise(name):
    with pytest.raises(ValueError, match="A tap must be"):
        Taps(mlp(), [name])


def test_one_forward_pass_without_side_effects():
    model = keras.Sequential([keras.Input((8,)), Counter(name="counter"), keras.layers.Dense(4, name="dense")])
    before = {layer.name: dict(vars(layer)) for layer in model.layers}
    Taps(model, ["counter", "dense", "dense[0]", "output"][:2])(features(4, 8), training=True)
    assert model.get_layer("counter").counted() == (1, 0)
    assert {layer.name: dict(vars(layer)) for layer in model.layers} == before


def test_failed_pass_restores_the_model():
    model = mlp()
    with pytest.raises(ValueError, match="incompatible with the layer"):
        Taps(model, ["features"])(features(4, 9), training=False)
    assert "call" not in vars(model.get_layer("features"))


def test_threads_are_isolated():
    model, results, barrier = mlp(), {}, threading.Barrier(4)
    inputs = {index: features(3, 8, seed=index) for index in range(4)}
    taps = Taps(model, ["features"])

    def work(index):
        barrier.wait()
        for _ in range(20):
            results[index] = taps(inputs[index], training=False)["features"].numpy()

    threads = [threading.Thread(target=work, args=(index,)) for index in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, x in inputs.items():
        np.testing.assert_allclose(results[index], model.get_layer("features")(x), rtol=1e-6)
    assert "call" not in vars(model.get_layer("features"))


def test_keras_masks_are_kept():
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(9, 4, mask_zero=True),
            keras.layers.Dense(2, name="dense"),
        ]
    )
    activation = Taps(model, ["dense"])(np.array([[1, 2, 0]]), training=False)["dense"]
    np.testing.assert_array_equal(activation._keras_mask, [[True, True, False]])


def test_attention_sub_layers_get_its_masks():
    tokens, others = keras.Input((3,), dtype="int32"), keras.Input((2,), dtype="int32")
    embedding = keras.layers.Embedding(9, 4, mask_zero=True)
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(embedding(tokens), embedding(others))
    model = keras.Model([tokens, others], attended)
    inputs = [np.array([[1, 2, 0]]), np.array([[3, 0]])]
    expected = model(inputs)
    taps = Taps(model, ["attention/query", "attention/key", "attention/value", "output"])
    activations = taps(inputs, training=False)
    np.testing.assert_array_equal(activations["attention/query"]._keras_mask, [[True, True, False]])
    for name in ("key", "value"):
        np.testing.assert_array_equal(activations[f"attention/{name}"]._keras_mask, [[True, False]])
    np.testing.assert_array_equal(activations["output"], expected)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_layer_named_output_must_be_the_output(policy):
    keras.config.set_dtype_policy(policy)
    x, last = features(4, 8), keras.layers.Dense(3, name="output")
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), last], name="student")
    np.testing.assert_array_equal(Taps(model, ["output"])(x, training=False)["output"], model(x))
    model.add(keras.layers.Softmax())
    with pytest.raises(ValueError, match="its layer of that name returns another tensor. Rename the layer"):
        Taps(model, ["output"])(x, training=False)
