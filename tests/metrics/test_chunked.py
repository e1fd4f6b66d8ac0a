import keras
import numpy as np
import pytest

from keras_distill import Distiller, HiddenStates, Term
from keras_distill.losses import Chunked
from keras_distill.metrics import CKA, Acceptance, AcceptedLength, Agreement, ChunkedMetric, TeacherDivergence
from keras_distill.teachers import ModelTeacher
from tests.support.helpers import features, zero_rate_sgd
from tests.support.language_models import WORDS, language_model, texts

METRICS = [Agreement, lambda: Agreement(3), lambda: TeacherDivergence(2.0), Acceptance, lambda: AcceptedLength(2)]


def models():
    return language_model(), language_model(6, "teacher", seed=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tokens", [1, 4, 100])
def test_equals_the_inner_metric_on_all_logits(metric, tokens):
    (student, teacher), (x, _) = models(), texts()
    weight = np.random.default_rng(2).random((3, 7)).astype("float32")
    plain, chunked = metric(), ChunkedMetric(metric(), "logits", "logits", tokens)
    chunked.connect(HiddenStates(student), ModelTeacher(HiddenStates(teacher)))
    plain.update_state(student(x), teacher(x), sample_weight=weight)
    chunked.update_state(HiddenStates(student)(x), HiddenStates(teacher)(x), sample_weight=weight)
    np.testing.assert_allclose(chunked.result(), plain.result(), rtol=1e-5)
    assert chunked.name == plain.name


def test_in_a_distiller_of_hidden_states():
    # The first text ends in padding, which does not count.
    (student, teacher), (x, _) = models(), texts()
    metrics = [metric() for metric in METRICS]
    plain = Distiller(student=student, teacher=teacher)
    plain.compile(zero_rate_sgd(), metrics=metrics)
    expected = plain.evaluate(x, batch_size=2, verbose=0, return_dict=True)
    chunked = Distiller(
        student=HiddenStates(student),
        teacher=HiddenStates(teacher),
        terms=[Term(Chunked(None, "logits", "logits", tokens=4))],
    )
    chunked.compile(zero_rate_sgd(), metrics=[ChunkedMetric(m(), "logits", "logits", tokens=4) for m in METRICS])
    found = chunked.fit(x, batch_size=2, verbose=0).history
    for metric in metrics:
        assert found[metric.name][0] == pytest.approx(expected[metric.name], rel=1e-5), metric.name


def test_logits_as_they_are():
    student, teacher = features(2, 3, 5), features(2, 3, 5, seed=1)
    plain, chunked = TeacherDivergence(), ChunkedMetric(TeacherDivergence(), tokens=2)
    for metric in (plain, chunked):
        metric.update_state(student, teacher)
    np.testing.assert_allclose(chunked.result(), plain.result(), rtol=1e-5)


def test_survives_saving():
    metric = ChunkedMetric(AcceptedLength(3, student="a", mask="b"), "x", "y", 5, name="mine")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert revived.get_config() == metric.get_config()
    assert (revived.student, revived.mask, revived.metric.k) == ("a", "b", 3)


def test_rejects_what_it_cannot_compute():
    for metric in (CKA("a", "b"), ChunkedMetric(Agreement(), "x", "y"), "agreement"):
        with pytest.raises(ValueError, match="ChunkedMetric takes a metric of logits"):
            ChunkedMetric(metric)
    with pytest.raises(ValueError, match="has only the path 'logits' of its layer.*metric.connect"):
        ChunkedMetric(Agreement(), "logits", "logits").update_state(features(2, 3, 4), features(2, 3, 4))
    student, teacher = language_model(), language_model(6, "teacher", words=WORDS + 1)
    terms = [Term("mse", "block", "block", head="auto")]
    distiller = Distiller(student=HiddenStates(student), teacher=HiddenStates(teacher), terms=terms)
    with pytest.raises(ValueError, match="Metric 'agreement' compares logits of the same classes.*11.*12"):
        distiller.compile("sgd", metrics=[ChunkedMetric(Agreement(), "logits", "logits")])
