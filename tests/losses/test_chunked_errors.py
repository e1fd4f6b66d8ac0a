"""Errors of `Chunked` and `ChunkedCrossentropy` before training."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, HiddenStates, MutualDistiller, Term
from keras_distill.losses import (
    DIST,
    Chunked,
    ChunkedCrossentropy,
    ConfidenceTemperature,
    CurriculumTemperature,
    FocalTemperature,
    KLDivergence,
    LogitStandardization,
    MultiLevelKD,
)
from keras_distill.metrics import Agreement, ChunkedMetric, Perplexity
from tests.support.helpers import features
from tests.support.language_models import WORDS, dense, language_model


@pytest.mark.parametrize("loss", [DIST(), MultiLevelKD(), FocalTemperature(), ConfidenceTemperature(), Chunked()])
def test_rejects_losses_that_are_not_pointwise(loss):
    with pytest.raises(ValueError, match=f"compares each position independently.*Received: a {type(loss).__name__}"):
        Chunked(loss)


def test_rejects_invalid_arguments():
    with pytest.raises(ValueError, match="Received: a CurriculumTemperature"):
        Chunked(CurriculumTemperature())
    with pytest.raises(ValueError, match="Received: a LogitStandardization"):
        Chunked(LogitStandardization(DIST()))
    with pytest.raises(ValueError, match="takes a loss of logits.*Received"):
        LogitStandardization(Chunked(None, "logits", "logits"))
    with pytest.raises(ValueError, match="`tokens` must be an integer >= 1. Received: 0"):
        Chunked(tokens=0)
    with pytest.raises(ValueError, match="must be the path of the layer.*Received: 3"):
        ChunkedCrossentropy(3)
    with pytest.raises(ValueError, match="has only the path 'logits' of its layer.*model.get_layer"):
        ChunkedCrossentropy("logits")(np.zeros((1, 1)), features(1, 1, 2))


def assert_rejected(message, student=None, teacher=None, wrap=(HiddenStates, HiddenStates), **options):
    models = student or language_model(), teacher or language_model(6, "teacher")
    options = {"student_layer": "logits", "teacher_layer": "logits"} | options
    with pytest.raises(ValueError, match=message):
        Distiller(student=wrap[0](models[0]), teacher=wrap[1](models[1]), terms=[Term(Chunked(**options))])


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((HiddenStates, lambda model: model), "Student 'student_hidden_states' is a HiddenStates model.*KLDivergence"),
        ((lambda model: model, HiddenStates), r"The teacher is a HiddenStates model.*Term\(Chunked\(KLDivergence"),
    ],
)
def test_losses_of_logits_do_not_compare_hidden_states(models, message):
    student, teacher = language_model(WORDS), language_model(WORDS, "teacher")
    with pytest.raises(ValueError, match=message):
        # Hidden states of as many channels as there are words would fit.
        Distiller(student=models[0](student), teacher=models[1](teacher), terms=[Term(KLDivergence())])
    # `Chunked` does not take this loss.
    with pytest.raises(ValueError, match=r"DIST compares logits. Pass the model itself\.$"):
        Distiller(student=models[0](student), teacher=models[1](teacher), terms=[Term(DIST())])
    peers = {"a": HiddenStates(student), "b": HiddenStates(teacher)}
    with pytest.raises(ValueError, match="Peer 'a' returns hidden states"):
        MutualDistiller(peers, Chunked())


@pytest.mark.parametrize(
    ("loss", "metric", "message"),
    [
        (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            None,
            "SparseCategoricalCrossentropy reads logits",
        ),
        ("sparse_categorical_crossentropy", None, "sparse_categorical_crossentropy reads logits"),
        (None, "accuracy", "accuracy reads logits, but 'student_hidden_states' .*Perplexity"),
        (None, Agreement(), r"Metric 'agreement' compares logits.*ChunkedMetric\(Agreement"),
    ],
)
def test_losses_and_metrics_of_logits_do_not_take_hidden_states(loss, metric, message):
    models = HiddenStates(language_model(WORDS)), HiddenStates(language_model(WORDS, "teacher"))
    distiller = Distiller(student=models[0], teacher=models[1], terms=[Term(Chunked())])
    with pytest.raises(ValueError, match=message):
        distiller.compile("adam", loss, metrics=None if metric is None else [metric])
    distiller.compile("adam", ChunkedCrossentropy(), metrics=[Perplexity(), ChunkedMetric(Agreement())])


def test_errors_come_before_training_and_name_layers_and_shapes():
    assert_rejected("No layer called 'logit' in 'student_hidden_states'. Closest: .*logits", student_layer="logit")
    for layer in ("logits", None):
        assert_rejected(
            r"Term 'chunked' cannot compare .*vocabulary has 11 words, the teacher's 12: Layer 'logits' maps "
            r"\(None, None, 4\) to \(None, None, 11\)",
            teacher=language_model(6, "teacher", words=12),
            student_layer=layer,
            teacher_layer=layer,
        )
    assert_rejected(
        "Layer 'logits' ends in a softmax, but its outputs must be logits", teacher=language_model(activation="softmax")
    )
    assert_rejected(
        r"Layer 'logits', with weights of the shapes \[\(4, 11\), \(11,\)\], does not accept hidden states of size 11",
        wrap=(lambda model: model, HiddenStates),
    )
    assert_rejected(
        "A function has no layers. Pass the keras.Model itself. Received: layer 'logits'",
        wrap=(HiddenStates, lambda model: lambda x: model(x)),
    )
    assert_rejected(
        r"11 words, the teacher's 6: Layer 'logits' maps .*The teacher's tap returns \(None, None, 6\), which was "
        "taken for logits: for hidden states, pass `teacher_layer=` or a HiddenStates model as the teacher",
        wrap=(HiddenStates, lambda model: lambda x: HiddenStates(model)(x)),
        teacher_layer=None,
    )
    assert_rejected(
        "Layer 'embedding_norm' returns .* not one row of logits",
        student_layer="embedding_norm",
        student=_model_with_a_layer_of_rank_4(),
    )
    models = HiddenStates(language_model()), HiddenStates(language_model(6, "teacher"))
    with pytest.raises(ValueError, match=r"`words` selects logits, but Chunked .*`Chunked\(loss, words=5\)`"):
        Distiller(student=models[0], teacher=models[1], terms=[Term(Chunked(), words=5)])
    with pytest.raises(ValueError, match=r"has no layer.*`ChunkedCrossentropy\(model.output_layer\)`"):
        ChunkedCrossentropy()(np.zeros((1, 1)), features(1, 1, 2))
    with pytest.raises(ValueError, match="which layer of 'student' computes the logits: it is no HiddenStates model"):
        Distiller(student=language_model(), teacher=None).compile("sgd", ChunkedCrossentropy())
    distiller = Distiller(
        student=HiddenStates(language_model()),
        teacher=HiddenStates(language_model(6, "teacher")),
        terms=[Term(Chunked(None, *["logits"] * 2))],
    )
    with pytest.raises(ValueError, match="No layer called 'logit' in 'student_hidden_states'"):
        distiller.compile("sgd", ChunkedCrossentropy("logit"))
    with pytest.raises(
        ValueError, match=r"weights of the shapes \[\(5, 11\), \(11,\)\], does not accept hidden states of size 4"
    ):
        distiller.compile("sgd", ChunkedCrossentropy(dense(5)))


def _model_with_a_layer_of_rank_4():
    """Return a student whose layer "embedding_norm" accepts hidden states and returns no row of logits."""
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(WORDS, 4)(tokens)
    x = keras.layers.Lambda(lambda x: x[..., None], name="embedding_norm")(x)
    x = keras.layers.Reshape((-1, 4))(x)
    return keras.Model(tokens, keras.layers.Dense(WORDS, name="logits")(x), name="student")
