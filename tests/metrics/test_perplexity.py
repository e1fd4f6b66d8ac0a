import keras
import numpy as np
import pytest

from keras_distill import Distiller, HiddenStates, Term
from keras_distill.losses import Chunked, ChunkedCrossentropy
from keras_distill.metrics import Perplexity
from tests.support.helpers import features, softmax, zero_rate_sgd
from tests.support.language_models import WORDS, dense, language_model, texts


def reference(labels, logits, weight):
    p = np.take_along_axis(softmax(logits), np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return np.exp(np.average(-np.log(p), weights=weight * (labels >= 0)))


def weights_of_tokens():
    return np.random.default_rng(2).random((3, 7)).astype("float32")


@pytest.mark.parametrize("weighted", [False, True])
def test_matches_the_definition(weighted):
    logits, labels, weight = features(3, 7, WORDS, scale=3), texts()[1], weights_of_tokens()
    metric = Perplexity()
    for rows in (slice(0, 1), slice(1, None)):
        metric.update_state(labels[rows], logits[rows], sample_weight=weight[rows] if weighted else None)
    expected = reference(labels, logits, weight if weighted else np.ones_like(weight))
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)


def test_weights_of_texts_and_an_ignored_class():
    logits, labels, weight = features(3, 7, WORDS), np.abs(texts()[1]), np.array([1.0, 0.5, 0.0])
    labels[0, 2] = 0
    logits[2] = np.nan
    metric = Perplexity(ignore_class=0)
    metric.update_state(labels, logits, sample_weight=weight)
    expected = reference(labels, np.nan_to_num(logits), weight[:, None] * (labels != 0))
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)


def test_probabilities_of_a_softmax_and_uniform_predictions():
    labels, logits = texts()[1], features(3, 7, WORDS)
    metric = Perplexity()
    metric.update_state(labels, keras.activations.softmax(keras.ops.convert_to_tensor(logits)))
    np.testing.assert_allclose(metric.result(), reference(labels, logits, np.ones((3, 7))), rtol=1e-5)
    metric.reset_state()
    metric.update_state(labels, np.zeros((3, 7, WORDS)))
    np.testing.assert_allclose(metric.result(), WORDS, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 5, 100])
def test_hidden_states_in_chunks(tokens):
    layer, hidden, labels, weight = dense(4), features(3, 7, 4), texts()[1], weights_of_tokens()
    metric = Perplexity(layer, tokens)
    metric.update_state(labels, hidden, sample_weight=weight)
    np.testing.assert_allclose(metric.result(), reference(labels, np.asarray(layer(hidden)), weight), rtol=1e-5)


@pytest.mark.parametrize("run", ["evaluate", "fit"])
def test_in_a_distiller(run):
    # The first text ends in padding, which the embedding masks; the last has missing labels.
    (x, y), student, teacher = texts(), language_model(), language_model(6, "teacher", seed=1)
    expected = reference(y, student.predict(x, verbose=0), x != 0)
    plain = Distiller(student=student, teacher=teacher)
    plain.compile(zero_rate_sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[Perplexity()])
    terms = [Term(Chunked(None, "logits", "logits", tokens=4))]
    chunked = Distiller(student=HiddenStates(student), teacher=HiddenStates(teacher), terms=terms)
    chunked.compile(zero_rate_sgd(), ChunkedCrossentropy("logits", 4), metrics=[Perplexity("logits", 4)])
    for distiller in (plain, chunked):
        if run == "fit":
            found = distiller.fit(x, y, batch_size=2, verbose=0).history["perplexity"][0]
        else:
            found = distiller.evaluate(x, y, batch_size=2, verbose=0, return_dict=True)["perplexity"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_plain_keras_model():
    (x, y), model = texts(), language_model()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[Perplexity()])
    logs = model.evaluate(x, np.abs(y), batch_size=2, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["perplexity"], reference(np.abs(y), model.predict(x, verbose=0), x != 0), rtol=1e-5)


def test_survives_saving():
    for metric in (Perplexity(ignore_class=3, name="mine"), Perplexity("logits", 5)):
        revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
        assert revived.get_config() == metric.get_config()


def test_rejects_invalid_arguments():
    with pytest.raises(ValueError, match="has only the path 'logits' of its layer"):
        Perplexity("logits").update_state(texts()[1], features(3, 7, 4))
    with pytest.raises(ValueError, match="`ignore_class` must be an integer >= 0 or None. Received: -100"):
        Perplexity(ignore_class=-100)
    student, teacher = language_model(), language_model(6, "teacher")
    distiller = Distiller(student=student, teacher=teacher)
    with pytest.raises(ValueError, match="No layer called 'head' in 'student'"):
        distiller.compile("sgd", metrics=[Perplexity("head")])
