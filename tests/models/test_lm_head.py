"""Language-model heads."""

import keras
import keras_hub
import numpy as np
import pytest

from keras_distill import Distiller, HiddenStates, Term
from keras_distill.losses import Chunked, ChunkedCrossentropy, KLDivergence
from keras_distill.models.lm_head import LMHead
from tests.support.helpers import features, mlp, softened_kl


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
    with pytest.raises(ValueError, match="'two' does not end in a layer that maps one tensor to one output"):
        HiddenStates(keras.Model(x, [first, second], name="two"))
    with pytest.raises(ValueError, match="'sum' does not end in a layer that maps one tensor to one output"):
        HiddenStates(keras.Model(x, keras.layers.Add()([first, second]), name="sum"))
    with pytest.raises(ValueError, match=r"Pass .*`keras.Model\(model.input, hidden\)`"):
        HiddenStates(keras.Model(x, keras.ops.exp(first), name="operation"))


def test_a_last_layer_that_is_called_twice():
    twice, inputs = keras.layers.Dense(4, name="twice"), keras.Input((4,))
    model, x = keras.Model(inputs, twice(twice(inputs)), name="loop"), features(3, 4)
    np.testing.assert_allclose(HiddenStates(model)(x), twice(x), rtol=1e-6)


@pytest.mark.case("D6")
@pytest.mark.parametrize("trained", [False, True])
def test_causal_language_models_of_kerashub(trained):
    ids = np.arange(10).reshape(2, 5) + 1
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}

    def causal_lm(width):
        backbone = keras_hub.models.GPT2Backbone(20, 1, 2, width, 16, max_sequence_length=8, dropout=0.0)
        return keras_hub.models.GPT2CausalLM(backbone)

    student, teacher = causal_lm(8), causal_lm(12)
    np.testing.assert_array_equal(HiddenStates(student)(x), student.backbone(x))
    expected = softened_kl(student.predict(x, verbose=0), teacher.predict(x, verbose=0), 2.0).mean()
    term = Term(Chunked(KLDivergence(2.0), student_layer="token_embedding", teacher_layer="token_embedding"))
    distiller = Distiller(student=HiddenStates(student), teacher=HiddenStates(teacher), terms=[term])
    distiller.compile(keras.optimizers.SGD(1.0 if trained else 0.0), ChunkedCrossentropy("token_embedding"))
    before = student.get_weights()
    logs = distiller.fit(x, ids, verbose=0).history
    np.testing.assert_allclose(logs["chunked_loss"], expected, rtol=1e-4)
    changed = [not np.array_equal(one, other) for one, other in zip(before, student.get_weights(), strict=True)]
    assert any(changed) == trained


def test_without_a_layer_activations_are_logits():
    logits = features(3, 5)
    np.testing.assert_array_equal(LMHead().logits(logits, [], []), logits)
    assert LMHead().shape((None, 5)) == (None, 5)
