"""`Term(words=)`: vocabularies that differ by padding at their end."""

import keras
import numpy as np
import pytest

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.data.batch import with_activations
from keras_distill.data.top_k import TopKLogits
from keras_distill.losses import Chunked, Hint, KLDivergence, TopK
from keras_distill.preflight import check
from keras_distill.saving import load_distiller
from keras_distill.teachers import CachedTeacher
from tests.support.helpers import compiled, data, features, fitted, mlp, softened_kl, zero_rate_sgd
from tests.support.language_models import language_model, texts


def loss_of(distiller, x, y, name="kl_divergence_loss"):
    """Return the loss of a term before the first update, over all examples."""
    return fitted(compiled(distiller, zero_rate_sgd()), x, y, batch_size=len(y))[name][0]


@pytest.mark.parametrize("words", [3, 4, 5])
def test_the_first_classes_are_compared(words):
    x, y = data()
    student, teacher = mlp(classes=5), mlp(classes=7, name="teacher")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(2.0), words=words)])
    expected = softened_kl(np.array(student(x))[:, :words], np.array(teacher(x))[:, :words], 2.0).mean()
    assert loss_of(distiller, x, y) == pytest.approx(expected, rel=1e-5)


def test_masked_tokens_are_left_out():
    x, y = texts()
    student, teacher = language_model(words=13), language_model(6, "teacher", words=16)
    term = Term(KLDivergence(), words=11, over="tokens")
    distiller = Distiller(student=student, teacher=teacher, terms=[term])
    counted = x > 0
    pair = (np.array(model(x), "float64")[counted][:, :11] for model in (student, teacher))
    expected = softened_kl(*pair, 1.0).mean()
    assert loss_of(distiller, x, np.maximum(y, 0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("words", [3, 6, 8])
@pytest.mark.parametrize("loss", [TopK(3), KLDivergence()], ids=["TopK", "KLDivergence"])
def test_top_k_logits_of_a_cache(loss, words):
    x, y = data()
    student = mlp(classes=8)
    logits = features(len(x), 10, scale=2)
    order = np.argsort(-logits, axis=-1).astype("int32")
    # Four of ten classes; the others share what is left.
    others = np.log(np.exp(np.take_along_axis(logits, order[:, 4:], axis=-1)).sum(axis=-1, keepdims=True))
    top = np.concatenate([np.take_along_axis(logits, order[:, :4], axis=-1), others], axis=-1)
    dense = np.repeat(others - np.log(6), 10, axis=-1)
    np.put_along_axis(dense, order[:, :4], top[:, :4], axis=-1)
    results = []
    for stored, counts in (({"top": top, "classes": order[:, :4]}, {OUTPUT: 10}), (dense.astype("float32"), None)):
        teacher = CachedTeacher({OUTPUT: keras.tree.map_structure(np.asarray, stored)}, counts)
        distiller = Distiller(student=student, teacher=teacher, terms=[Term(loss, name="kd", words=words)])
        results.append(loss_of(distiller, with_activations(x, {OUTPUT: stored}), y, "kd_loss"))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    if isinstance(loss, KLDivergence):
        expected = softened_kl(np.array(student(x))[:, :words], dense[:, :words].astype("float64"), 1.0).mean()
        assert results[0] == pytest.approx(expected, rel=1e-5)


def test_a_term_is_saved_with_its_words(tmp_path):
    x, y = data()
    teacher = mlp(classes=5, name="teacher")
    distiller = compiled(Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence(), words=3)]))
    distiller.save(tmp_path / "distiller.keras")
    loaded = load_distiller(tmp_path / "distiller.keras", teacher)
    assert loaded.terms[0].words == 3
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(distiller.evaluate(x, y, verbose=0))


def test_the_preflight_check_compares_the_first_classes():
    x, y = data()
    distiller = Distiller(
        student=mlp(classes=5), teacher=mlp(classes=7, name="teacher"), terms=[Term(KLDivergence(), words=3)]
    )
    check(compiled(distiller), x, y)


@pytest.mark.parametrize("words", [6, 8])
def test_a_smaller_vocabulary_raises(words):
    sizes = "student 'output' has 5 and teacher 'output' has 7. Pass words=5 or less"
    with pytest.raises(ValueError, match=f"compares the first {words} classes, but {sizes}"):
        Distiller(
            student=mlp(classes=5),
            teacher=mlp(classes=7, name="teacher"),
            terms=[Term(KLDivergence(), words=words)],
        )


def test_other_sizes_without_words_name_the_remedy():
    models = {"student": mlp(classes=5), "teacher": mlp(classes=7, name="teacher")}
    with pytest.raises(ValueError, match=r"pass Term\(words=5\)"):
        Distiller(**models, terms=[Term(KLDivergence())])
    Distiller(**models, terms=[Term(KLDivergence(), words=5)])


@pytest.mark.parametrize("loss", [Hint(), "mse", Chunked(None, "logits", "logits")])
def test_losses_of_other_activations_raise(loss):
    with pytest.raises(ValueError, match=r"`words` selects logits, but .*Chunked\(loss, words=3\)"):
        Term(loss, words=3)


@pytest.mark.parametrize("words", [0, 2.0, True, "3"])
def test_invalid_words_raise(words):
    for create in (lambda: Term(KLDivergence(), words=words), lambda: Chunked(words=words)):
        with pytest.raises(ValueError, match="`words` must be an integer >= 1 or None. Received:"):
            create()


class Dense(CachedTeacher):
    """Stored logits that are never spread to all classes."""

    def activations(self, batch):
        activations = super().activations(batch)
        assert isinstance(activations.sparse()[OUTPUT], TopKLogits)
        return activations


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_top_k_logits_are_not_spread_for_losses_that_take_them(monkeypatch, run_eagerly):
    x, y = data()
    stored = {"top": features(len(x), 3), "classes": np.tile(np.array([4, 1], "int32"), (len(x), 1))}
    teacher = Dense({OUTPUT: stored}, {OUTPUT: 5})
    terms = [Term(TopK(2)), Term(Chunked(TopK(2)), name="chunked"), Term(TopK(2), words=4, name="words")]
    distiller = compiled(Distiller(student=mlp(classes=5), teacher=teacher, terms=terms), run_eagerly=run_eagerly)

    def fail(self):
        raise AssertionError("all classes")

    monkeypatch.setattr(TopKLogits, "dense", fail)
    history = fitted(distiller, with_activations(x, {OUTPUT: stored}), y)
    assert history["top_k_loss"] == pytest.approx(history["chunked_loss"], rel=1e-5)
