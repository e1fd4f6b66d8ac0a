import keras
import keras_hub
import numpy as np
import pytest

from keras_distill import Distiller
from keras_distill.compression import trim_vocabulary
from keras_distill.teachers import ModelTeacher
from tests.support.helpers import zero_rate_sgd

SIZE, WORDS = 20, [0, 3, 4, 19, 7]
# The words of a text in both vocabularies.
TEXT = np.array([[3, 19, 7, 4], [4, 4, 3, 7]])
NEW_TEXT = np.array([[1, 3, 4, 2], [2, 2, 1, 4]])


def randomized(model):
    """Set all weights to different numbers, so that a swapped row changes the outputs."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape).astype(weight.dtype) for weight in model.weights])
    return model


def embedding_and_dense(softmax=None, size=SIZE, **embedding):
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(size, 6, name="words", **embedding)(tokens)
    # As wide as the vocabulary, and no part of it.
    x = keras.layers.Dense(SIZE, activation="tanh", name="wide")(x)
    x = keras.layers.LayerNormalization(name="normalization")(x)
    x = keras.layers.Dense(SIZE, activation="softmax" if softmax == "inside" else None, name="logits")(x)
    return keras.Model(tokens, keras.layers.Softmax()(x) if softmax == "layer" else x, name="plain")


def sequential():
    return keras.Sequential(
        [keras.Input((None,), dtype="int32"), keras.layers.Embedding(SIZE, 6), keras.layers.Dense(SIZE)]
    )


def tied(tie_weights=True):
    tokens = keras.Input((None,), dtype="int32")
    table = keras_hub.layers.ReversibleEmbedding(SIZE, 6, tie_weights=tie_weights, name="words")
    x = keras.layers.Dense(6, activation="tanh")(table(tokens))
    return keras.Model(tokens, table(x, reverse=True))


def nested():
    backbone = gpt2_backbone()
    x = keras.layers.Dense(5, activation="tanh")(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(SIZE)(x))


def gpt2_backbone():
    return keras_hub.models.GPT2Backbone(SIZE, 1, 2, 8, 16, max_sequence_length=SIZE)


def llama_backbone():
    return keras_hub.models.LlamaBackbone(SIZE, 1, 2, hidden_dim=8, intermediate_dim=16, num_key_value_heads=2)


PLAIN = {
    "dense": embedding_and_dense,
    "softmax inside": lambda: embedding_and_dense("inside"),
    "softmax layer": lambda: embedding_and_dense("layer"),
    "masked": lambda: embedding_and_dense(mask_zero=True),
    "sequential": sequential,
    "tied": tied,
    "untied": lambda: tied(False),
}
HUB = {
    "gpt2": lambda: keras_hub.models.GPT2CausalLM(gpt2_backbone()),
    "llama": lambda: keras_hub.models.LlamaCausalLM(llama_backbone()),
    "backbone": gpt2_backbone,
    "nested": nested,
}


def inputs_of(model, text):
    return text if len(model.inputs) == 1 else {"token_ids": text, "padding_mask": np.ones_like(text)}


@pytest.mark.parametrize("name", [*PLAIN, *HUB])
def test_outputs_are_those_of_the_words_that_are_left(name):
    model = randomized((PLAIN | HUB)[name]())
    before = [weight.copy() for weight in model.get_weights()]
    smaller, ids = trim_vocabulary(model, WORDS)
    np.testing.assert_array_equal(ids[TEXT], NEW_TEXT)
    assert sorted(ids[ids >= 0]) == list(range(5)) and (ids == -1).sum() == SIZE - 5
    expected = model.predict(inputs_of(model, TEXT), verbose=0)
    if expected.shape[-1] == SIZE:
        expected = expected[..., WORDS]
    if "softmax" in name:
        expected = expected / expected.sum(axis=-1, keepdims=True)
    found = smaller.predict(inputs_of(smaller, NEW_TEXT), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert smaller.count_params() < model.count_params()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ["dense", "llama"])
def test_is_saved_and_loaded(name, tmp_path):
    smaller, _ = trim_vocabulary(randomized((PLAIN | HUB)[name]()), WORDS)
    smaller.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = inputs_of(smaller, NEW_TEXT)
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), smaller.predict(inputs, verbose=0))


def test_a_trimmed_student_learns_from_the_whole_teacher():
    teacher = randomized(embedding_and_dense())
    student, _ = trim_vocabulary(teacher, WORDS)
    whole = ModelTeacher(teacher, inputs=lambda ids: keras.ops.take(np.array(WORDS), ids), classes=WORDS)
    distiller = Distiller(student=student, teacher=whole)
    distiller.compile(zero_rate_sgd())
    np.testing.assert_allclose(distiller.evaluate(NEW_TEXT, verbose=0, return_dict=True)["loss"], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([0, 20], "`words` has the index 20, but 'plain' has the words 0 to 19"),
        ([0, -1], "`words` has the index -1"),
        ([0, 1, 1], "`words` has the index 1 more than once"),
        ([], "`words` must be a list of indices"),
        ([0.0, 1.0], "`words` must be a list of indices"),
        (range(20), "`words` keeps all 20 words of 'plain'"),
        ([3, 0], "Layer 'words' masks the word 0 .*so that the first of `words` must be 0. Received: 3"),
    ],
)
def test_rejects_invalid_words(words, message):
    with pytest.raises(ValueError, match=message):
        trim_vocabulary(embedding_and_dense(mask_zero=True), words)


def test_rejects_models_without_a_vocabulary():
    tokens = keras.Input((4,))
    normalized = keras.layers.LayerNormalization()(keras.layers.Dense(4)(tokens))
    with pytest.raises(ValueError, match="must end in a Dense layer or in an embedding.*LayerNormalization"):
        trim_vocabulary(keras.Model(tokens, normalized), [0])
    with pytest.raises(ValueError, match="`model` must be a built functional or Sequential language model.*Received"):
        trim_vocabulary(lambda x: x, [0])
