"""The recipe's way from twelve layers to six, on a BERT with random weights."""

import math

import keras
import numpy as np
import pytest
from absl import flags

from keras_distill import Distiller
from keras_distill.models.taps import find_layer
from recipes import data, minilm_layers
from tests.support import bert
from tests.support.helpers import assert_same_weights, crossentropy, weights_of


@pytest.fixture(autouse=True, scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    bert.save_preset(folder / "preset", layers=12)
    bert.save_snippets(folder)
    flags.FLAGS(["test", "--layers=6", "--length=12", f"--preset={folder / 'preset'}", f"--originals={folder}"])


def reviews():
    return minilm_layers.tokenized(data.movie_snippets())


def distiller(student, teacher):
    made = Distiller(student=student, teacher=teacher, terms=minilm_layers.logits_and_layers(teacher))
    made.compile(keras.optimizers.Adam(1e-3), crossentropy())
    return made


def test_six_layers_start_as_every_second_of_twelve():
    teacher = minilm_layers.teacher()
    student = minilm_layers.student(teacher)
    for number in range(6):
        ours, theirs = f"transformer_layer_{number}", f"transformer_layer_{2 * number + 1}"
        assert_same_weights(weights_of(find_layer(student, ours)), weights_of(find_layer(teacher, theirs)))
    for name in ("token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm", "logits"):
        assert_same_weights(weights_of(find_layer(student, name)), weights_of(find_layer(teacher, name)))
    assert len(minilm_layers.student().weights) == len(student.weights) < len(teacher.weights)


def test_every_layer_learns_from_the_one_that_it_is_like():
    terms = {term.name: term for term in minilm_layers.logits_and_layers(minilm_layers.teacher())}
    for number in range(6):
        ours, theirs = f"transformer_layer_{number}", f"transformer_layer_{2 * number + 1}"
        hidden, attention = terms[f"hidden_{number}"], terms[f"attention_{number}"]
        assert (hidden.student, hidden.teacher) == (ours, theirs)
        parts = [f"self_attention_layer/{part}" for part in ("query", "key")]
        assert attention.student == tuple(f"{ours}/{part}" for part in parts)
        assert attention.teacher == tuple(f"{theirs}/{part}" for part in parts)
    assert len(terms) == 1 + 1 + 6 * 3


def test_the_terms_fall_while_it_learns():
    (inputs, labels), teacher = reviews().train, minilm_layers.teacher()
    made = distiller(minilm_layers.student(), teacher)
    history = made.fit(inputs, labels, epochs=4, batch_size=16, verbose=0).history
    for name in ("embeddings_loss", "hidden_0_loss", "hidden_5_loss", "attention_5_loss"):
        assert history[name][-1] < history[name][0], name


def test_padded_tokens_count_in_no_term():
    inputs, labels = reviews().train
    teacher = minilm_layers.teacher()
    made = distiller(minilm_layers.student(), teacher)
    padded = inputs["padding_mask"] == 0
    assert padded.any()
    other = {**inputs, "token_ids": np.where(padded, 7, inputs["token_ids"])}
    first, second = (made.evaluate(x, labels, return_dict=True, verbose=0) for x in (inputs, other))
    assert first == pytest.approx(second, rel=1e-5)


def test_the_exact_gelu_is_saved_with_the_student(tmp_path):
    inputs, _ = reviews().test
    student = minilm_layers.student()
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), student.predict(inputs, verbose=0), rtol=1e-6)
    dense = loaded.get_layer("transformer_layer_0")._feedforward_intermediate_dense
    # x times the normal distribution function; the approximation differs in the fourth digit.
    np.testing.assert_allclose(dense.activation(np.float32(2.0)), 1 + math.erf(math.sqrt(2)), rtol=1e-6)


def test_no_sentence_is_in_both_parts_and_both_have_either_class():
    snippets = data.movie_snippets()
    train, test = set(snippets.train[0]), set(snippets.test[0])
    assert not train & test and len(train | test) == 59
    assert all(0.2 < labels.mean() < 0.8 for _, labels in (snippets.train, snippets.test))
    assert sum("is good" in text for text in snippets.train[0]) == snippets.train[1].sum()
