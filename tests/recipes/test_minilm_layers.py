"""Distillation of twelve BERT layers into six, with random weights."""

import math

import keras
import numpy as np
import pytest
from absl import flags

from keras_distill import Distiller
from keras_distill.models.layers import find_layer
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
    model = Distiller(student=student, teacher=teacher, terms=minilm_layers.logits_and_layers(student, teacher))
    model.compile(keras.optimizers.Adam(1e-3), crossentropy())
    return model


def test_student_layers_are_initialized_from_every_second_teacher_layer():
    teacher = minilm_layers.teacher()
    student = minilm_layers.student(teacher)
    for number in range(6):
        student_layer, teacher_layer = f"transformer_layer_{number}", f"transformer_layer_{2 * number + 1}"
        assert_same_weights(
            weights_of(find_layer(student, student_layer)), weights_of(find_layer(teacher, teacher_layer))
        )
    for name in ("token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm", "logits"):
        assert_same_weights(weights_of(find_layer(student, name)), weights_of(find_layer(teacher, name)))
    assert len(minilm_layers.student().weights) == len(student.weights) < len(teacher.weights)


def test_terms_pair_each_layer_with_its_initialization():
    terms = {term.name: term for term in minilm_layers.logits_and_layers(None, minilm_layers.teacher())}
    for number in range(6):
        student_layer, teacher_layer = f"transformer_layer_{number}", f"transformer_layer_{2 * number + 1}"
        hidden, attention = terms[f"hidden_{number}"], terms[f"attention_{number}"]
        assert (hidden.student, hidden.teacher) == (student_layer, teacher_layer)
        parts = [f"self_attention_layer/{part}" for part in ("query", "key")]
        assert attention.student == tuple(f"{student_layer}/{part}" for part in parts)
        assert attention.teacher == tuple(f"{teacher_layer}/{part}" for part in parts)
    assert len(terms) == 1 + 1 + 6 * 3


def test_terms_decrease_during_training():
    (inputs, labels), teacher = reviews().train, minilm_layers.teacher()
    model = distiller(minilm_layers.student(), teacher)
    history = model.fit(inputs, labels, epochs=4, batch_size=16, verbose=0).history
    for name in ("embeddings_loss", "hidden_0_loss", "hidden_5_loss", "attention_5_loss"):
        assert history[name][-1] < history[name][0], name


def test_padded_tokens_are_excluded():
    inputs, labels = reviews().train
    teacher = minilm_layers.teacher()
    model = distiller(minilm_layers.student(), teacher)
    is_padding = inputs["padding_mask"] == 0
    assert is_padding.any()
    changed = {**inputs, "token_ids": np.where(is_padding, 7, inputs["token_ids"])}
    first, second = (model.evaluate(x, labels, return_dict=True, verbose=0) for x in (inputs, changed))
    assert first == pytest.approx(second, rel=1e-5)


def test_saved_student_uses_the_exact_gelu(tmp_path):
    inputs, _ = reviews().test
    student = minilm_layers.student()
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), student.predict(inputs, verbose=0), rtol=1e-6)
    dense = loaded.get_layer("transformer_layer_0")._feedforward_intermediate_dense
    # x times the normal distribution function. The tanh approximation differs in the fourth digit.
    np.testing.assert_allclose(dense.activation(np.float32(2.0)), 1 + math.erf(math.sqrt(2)), rtol=1e-6)


def test_splits_are_disjoint_and_contain_both_classes():
    snippets = data.movie_snippets()
    train, test = set(snippets.train[0]), set(snippets.test[0])
    assert not train & test and len(train | test) == 59
    assert all(0.2 < labels.mean() < 0.8 for _, labels in (snippets.train, snippets.test))
    assert sum("is good" in text for text in snippets.train[0]) == snippets.train[1].sum()
