"""Training with `Chunked` and `ChunkedCrossentropy`, compared with training on all logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, HiddenStates, Term, load_distiller
from keras_distill.data.batch import Batch, with_activations
from keras_distill.losses import Chunked, ChunkedCrossentropy, KLDivergence, ReverseKL
from keras_distill.metrics import Agreement, ChunkedMetric, Perplexity
from keras_distill.schedules import Linear
from keras_distill.teachers import CachedTeacher, EMATeacher
from tests.support.helpers import assert_same_weights, fitted, softened_kl, weights_of
from tests.support.language_models import WORDS, language_model, texts


def test_tied_weights_are_trained_from_both_ends():
    def body(dim, name):
        tokens = keras.Input((None,), dtype="int32")
        return keras.Model(tokens, keras.layers.Embedding(WORDS, dim, name="embedding")(tokens), name=name)

    loss = Chunked(ReverseKL(), "embedding", "embedding", tokens=4)
    student, teacher = body(4, "student"), body(6, "teacher")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(loss)])
    x, (student_table,), (teacher_table,) = texts()[0], student.get_weights(), teacher.get_weights()
    with tf.GradientTape() as tape:
        variable = tf.Variable(student_table)
        logits = tf.gather(variable, x) @ tf.transpose(variable)
        targets = tf.gather(teacher_table, x) @ teacher_table.T
        expected = tf.reduce_mean(ReverseKL().compare(logits, targets, Batch(None)))
    gradient = tf.convert_to_tensor(tape.gradient(expected, variable))
    distiller.compile(keras.optimizers.SGD(1.0))
    history = fitted(distiller, x)
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(student.get_weights()[0], student_table - gradient, rtol=1e-4, atol=1e-6)


def test_calls_a_reversible_embedding_in_reverse():
    reversible = getattr(keras.layers, "ReversibleEmbedding", None)
    if reversible is None:
        pytest.skip("This Keras has no ReversibleEmbedding.")

    def body(dim, name):
        tokens = keras.Input((None,), dtype="int32")
        layer = reversible(WORDS, dim, tie_weights=False, logit_soft_cap=3.0, name="embedding")
        hidden = layer(tokens)
        return keras.Model(tokens, layer(hidden, reverse=True), name=name), keras.Model(tokens, hidden, name=name)

    (student, student_body), (teacher, teacher_body) = body(4, "student"), body(6, "teacher")
    x = texts()[0]
    expected = np.mean(KLDivergence(1.0).compare(student(x), teacher(x), Batch(None)))
    distiller = Distiller(
        student=student_body, teacher=teacher_body, terms=[Term(Chunked(None, "embedding", "embedding", tokens=4))]
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    np.testing.assert_allclose(fitted(distiller, x)["loss"][0], expected, rtol=1e-5)


def distilled(chunked, fit, **compiled):
    """Return `(history, weights of the student)` after training with chunked or plain losses."""
    student, teacher = language_model(), language_model(6, "teacher", seed=1)
    before = weights_of(teacher)
    loss, term = keras.losses.SparseCategoricalCrossentropy(from_logits=True), KLDivergence(Linear(4.0, 1.0, 10))
    if chunked:
        loss, term = ChunkedCrossentropy("logits", tokens=4), Chunked(term, "logits", "logits", 4)
    wrap = HiddenStates if chunked else (lambda model: model)
    distiller = Distiller(
        student=wrap(student), teacher=wrap(teacher), terms=[Term(term, weight=0.5)], supervised_weight=0.5
    )
    distiller.compile(keras.optimizers.SGD(0.5), loss, **compiled)
    history = fit(distiller)
    assert_same_weights(weights_of(teacher), before, rtol=0, atol=0)
    return history, weights_of(student)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_chunked_training_reaches_the_weights_of_plain_training(jit_compile):
    x, y = texts(12)
    weight = np.random.default_rng(4).random(12)

    def fit(distiller):
        # The last batch is smaller, and the last chunk of each batch is padded.
        return fitted(distiller, x, y, sample_weight=weight, epochs=3, batch_size=5)

    results = [distilled(chunked, fit, jit_compile=jit_compile) for chunked in (True, False)]
    (history, weights), (plain_history, plain_weights) = results
    assert history.keys() == {"loss", "supervised_loss", "chunked_loss"}
    np.testing.assert_allclose(history["supervised_loss"], plain_history["supervised_loss"], rtol=1e-5)
    np.testing.assert_allclose(history["chunked_loss"], plain_history["kl_divergence_loss"], rtol=1e-5)
    assert_same_weights(weights, plain_weights, atol=1e-6)
    assert history["loss"][-1] < history["loss"][0]


def test_two_replicas_make_the_update_of_one():
    # No padding and no missing labels: the supervised mean of a replica is over its own positions.
    x, y = (np.maximum(part, 1) for part in texts(12))

    def fit(distiller):
        return fitted(distiller, x, y, epochs=2, batch_size=6)

    _, expected = distilled(True, fit)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()).scope():
        _, weights = distilled(True, fit)
    assert_same_weights(weights, expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_trains_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    x, y = texts(8)
    history, _ = distilled(True, lambda distiller: fitted(distiller, x, y, epochs=6, batch_size=4))
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]


@keras.saving.register_keras_serializable("tests")
class CountedKL(KLDivergence):
    """KL divergence that counts how often it is computed."""

    computations = 0

    def compare(self, student, teacher, batch):
        self.computations += 1
        return super().compare(student, teacher, batch)


@pytest.mark.parametrize("over", ["examples", "tokens"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_training_step_computes_each_chunk_once(over, weighted):
    """Padding, sample weights and the weight of the term are known before the logits."""
    x, y = texts(6)
    student, teacher = HiddenStates(language_model()), HiddenStates(language_model(6, "teacher", seed=1))
    term = Term(Chunked(CountedKL(2.0), tokens=14), over=over, weight=0.3)
    distiller = Distiller(student=student, teacher=teacher, terms=[term])
    distiller.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    weight = np.random.default_rng(4).random((6, 7)) if weighted else None
    counted = distiller.terms[0].loss.loss
    counted.computations = 0
    fitted(distiller, x, y, sample_weight=weight, batch_size=6, shuffle=False)
    assert counted.computations == 3


def test_a_reloaded_distiller_resumes_training(tmp_path):
    x, y = texts(12)
    teacher = HiddenStates(language_model(6, "teacher", seed=1))

    def made():
        student = language_model()
        terms = [Term(Chunked(KLDivergence(2.0), "logits", "logits", tokens=4))]
        distiller = Distiller(student=HiddenStates(student), teacher=teacher, terms=terms)
        distiller.compile(keras.optimizers.Adam(0.01), ChunkedCrossentropy("logits", tokens=4))
        return distiller

    distiller = made()
    fitted(distiller, x, y)
    distiller.save(tmp_path / "d.keras")
    loaded = load_distiller(tmp_path / "d.keras", teacher=teacher)
    assert isinstance(loaded.terms[0].loss.loss, KLDivergence) and loaded.terms[0].loss.tokens == 4
    assert sum(w.path.endswith("logits/kernel") for w in loaded.weights) == 1
    for run in (distiller, loaded):
        fitted(run, x, y)
    assert_same_weights(weights_of(loaded.student), weights_of(distiller.student), rtol=0, atol=0)


def test_cached_logits_are_compared_directly():
    student, teacher = language_model(), language_model(6, "teacher", seed=1)
    x, _ = texts()
    logits = np.asarray(teacher(x))
    expected = np.mean(KLDivergence(2.0).compare(student(x), logits, Batch(None, position_weight=x > 0)))
    loss = Chunked(KLDivergence(2.0), student_layer="logits", tokens=4)
    distiller = Distiller(student=HiddenStates(student), teacher=CachedTeacher({"output": logits}), terms=[Term(loss)])
    distiller.compile(keras.optimizers.SGD(0.1))
    history = fitted(distiller, with_activations(x, {"output": logits}))
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)


def test_trains_with_an_ema_teacher():
    x, y = texts(8)
    student = language_model()
    body = HiddenStates(student)
    distiller = Distiller(
        student=body, teacher=EMATeacher(body, 0.5), terms=[Term(Chunked(None, "logits", "logits", tokens=4))]
    )
    distiller.compile(keras.optimizers.SGD(0.5), ChunkedCrossentropy(student.get_layer("logits"), tokens=4))
    history = fitted(distiller, x, y, epochs=2)
    assert history["chunked_loss"][0] == 0 and history["chunked_loss"][1] > 0


def test_layers_of_hidden_states_are_found(tmp_path):
    """Without names, values, gradients and files are those with names; a cache of logits is compared as it is."""
    x, y = texts(8)
    teacher = language_model(6, "teacher", seed=1)
    body, logits = HiddenStates(teacher), np.asarray(teacher(x))
    cached = CachedTeacher({"output": logits})

    def trained(names, of, x):
        student = language_model()
        term = Term(Chunked(KLDivergence(2.0), *names, tokens=4))
        distiller = Distiller(student=HiddenStates(student), teacher=of, terms=[term])
        metrics = [Perplexity(*names[:1]), ChunkedMetric(Agreement(), *names)]
        distiller.compile(keras.optimizers.SGD(0.5), ChunkedCrossentropy(*names[:1], tokens=4), metrics=metrics)
        return distiller, fitted(distiller, x, y, epochs=2)

    (named, expected), (found, history) = trained(["logits", "logits"], body, x), trained([], body, x)
    from_cache, cached_history = trained([], cached, with_activations(x, {"output": logits}))
    assert history == expected
    assert_same_weights(weights_of(found.student), weights_of(named.student), rtol=0, atol=0)
    assert_same_weights(weights_of(from_cache.student), weights_of(named.student), atol=1e-6)
    np.testing.assert_allclose(cached_history["agreement"], expected["agreement"], rtol=1e-5)
    found.save(tmp_path / "d.keras")
    loaded = load_distiller(tmp_path / "d.keras", teacher=HiddenStates(teacher))
    assert loaded.terms[0].loss.student_layer is None
    assert fitted(loaded, x, y) == fitted(found, x, y)


def test_a_built_term_serves_models_of_logits_after_one_of_hidden_states():
    student, teacher, (x, _) = language_model(), language_model(6, "teacher", seed=1), texts()
    expected = softened_kl(student.predict(x, verbose=0), teacher.predict(x, verbose=0), 2.0)[x > 0]
    terms = [Term(Chunked(KLDivergence(2.0), tokens=4), over="tokens")]
    for wrap in (HiddenStates, lambda model: model, HiddenStates):
        distiller = Distiller(student=wrap(student), teacher=wrap(teacher), terms=terms)
        distiller.compile(keras.optimizers.SGD(0.0))
        np.testing.assert_allclose(fitted(distiller, x)["loss"], [expected.mean()], rtol=1e-5)
        assert distiller.terms[0].takes_top_k == (not isinstance(distiller.student, HiddenStates))
        terms = distiller.terms


def test_the_input_of_a_last_softmax_is_logits():
    tokens = keras.Input((None,), dtype="int32")
    logits = keras.layers.Embedding(WORDS, WORDS)(tokens)
    teacher = keras.Model(tokens, keras.layers.Softmax()(logits))
    student, (x, _) = language_model(), texts()
    expected = softened_kl(student.predict(x, verbose=0), keras.Model(tokens, logits).predict(x, verbose=0), 1.0)
    terms = [Term(Chunked(tokens=4), over="tokens")]
    distiller = Distiller(student=HiddenStates(student), teacher=HiddenStates(teacher), terms=terms)
    distiller.compile(keras.optimizers.SGD(0.0))
    np.testing.assert_allclose(fitted(distiller, x)["loss"], [expected[x > 0].mean()], rtol=1e-5)
