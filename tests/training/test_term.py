"""`Term`: default heads, shape checks, names and serialization."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.heads import Convolution, Projection
from keras_distill.losses import (
    AttentionTransfer,
    BinaryKD,
    DecoupledKD,
    Hint,
    KLDivergence,
    RelationalKD,
    SimilarityPreserving,
)
from keras_distill.models.specs import Spec
from keras_distill.schedules import Linear
from tests.support.helpers import features, mlp


def spec(*shape, source="BiasAdd"):
    return Spec((None, *shape), "float32", source)


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "head"),
    [
        (Hint(), (8,), (16,), Projection),
        (Hint(), (5, 8), (5, 16), Projection),
        (Hint(), (None, 8), (None, 16), Projection),
        (Hint(), (4, 4, 8), (8, 8, 16), Convolution),
        (Hint(), (8,), (8,), type(None)),
        (AttentionTransfer(), (4, 4, 8), (8, 8, 16), type(None)),
        (SimilarityPreserving(), (8,), (4, 4, 2), type(None)),
        (RelationalKD(), (8,), (16,), type(None)),
        (KLDivergence(), (10,), (10,), type(None)),
    ],
)
def test_default_heads(loss, student, teacher, head):
    built = Term(loss, head="auto", name="term").build(spec(*student), spec(*teacher))
    assert type(built.head) is head


@pytest.mark.parametrize(
    ("term", "student", "teacher", "message"),
    [
        (
            Term(RelationalKD(), name="t"),
            (4, 3),
            (4, 3),
            r"RelationalKD compares activations of rank 2. Received: student 'output' of shape \(None, 4, 3\)",
        ),
        (Term(Hint(), "a", "b", head="auto", name="t"), (4, 3), (3,), "has no default head from student 'a'"),
        (
            Term(Hint(), "a", "b", head=Projection(), name="t"),
            (4, 3),
            (5, 3),
            r"shape \(None, 4, 3\), \(None, 4, 3\) after head 'projection.*Choose another",
        ),
        (Term(Hint(), "a", "b", head=keras.layers.Dense(7), name="t"), (3,), (5,), r"\(None, 7\) after head 'dense"),
        (
            Term(KLDivergence(), head="auto", name="t"),
            (3,),
            (5,),
            "compares 3 student classes with 5 teacher classes",
        ),
        (Term(KLDivergence(), name="t"), (1,), (1,), "two classes or more"),
    ],
)
def test_incompatible_shapes_raise(term, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        term.build(spec(*student), spec(*teacher))


@pytest.mark.parametrize(
    ("loss", "source", "other"), [(KLDivergence(), "Softmax", "Sigmoid"), (BinaryKD(), "Sigmoid", "Softmax")]
)
def test_probabilities_of_another_activation_raise(loss, source, other):
    Term(loss, teacher="probs", name="kd").build(spec(3), spec(3, source=source))
    message = f"compares the logits of a {source.lower()}, but teacher 'probs' ends in a {other.lower()}"
    with pytest.raises(ValueError, match=message):
        Term(loss, teacher="probs", name="kd").build(spec(3), spec(3, source=other))
    Term(Hint(), name="hint").build(spec(3), spec(3, source=other))


@pytest.mark.parametrize("arguments", [{"head": "dense"}, {"head": 3}, {"name": ""}, {"name": 4}])
def test_invalid_arguments_raise(arguments):
    with pytest.raises(ValueError, match=f"A Term's `{next(iter(arguments))}` must be"):
        Term(Hint(), **arguments)


def test_any_layer_can_be_a_head():
    head = keras.Sequential([keras.layers.Dense(12, activation="relu"), keras.layers.Dense(16)])
    distiller = Distiller(
        student=mlp(8), teacher=mlp(16, name="teacher"), terms=[Term(Hint(), "features", "features", head=head)]
    )
    assert sum(weight.shape.num_elements() for weight in distiller.heads[0].weights) == 8 * 12 + 12 + 12 * 16 + 16


def test_each_distiller_copies_the_heads_of_its_terms():
    terms = [Term(Hint(), "features", "features", head="auto"), Term(Hint(), "features", "features", head=Projection())]
    first, second = (Distiller(student=mlp(8), teacher=mlp(16, name="teacher"), terms=terms) for _ in range(2))
    heads = [*first.heads, *second.heads]
    assert len({id(head) for head in heads}) == 4 and len({id(w) for head in heads for w in head.weights}) == 8
    assert not terms[1].head.built


def test_built_head_is_not_copied():
    head = Projection()
    head.build((None, 8), (None, 16))
    term = Term(Hint(), "features", "features", head=head)
    assert Distiller(student=mlp(8), teacher=mlp(16, name="teacher"), terms=[term]).heads[0] is head


def test_default_and_duplicate_names():
    models = mlp(3), mlp(3, name="teacher")
    distiller = Distiller(
        student=models[0],
        teacher=models[1],
        terms=[Term(Hint()), Term(DecoupledKD()), Term(Hint(), name="hint_2"), Term(Hint())],
    )
    assert [term.name for term in distiller.terms] == ["hint", "decoupled_kd", "hint_2", "hint_3"]
    for names in (["a", "a"], ["supervised", "b"]):
        with pytest.raises(ValueError, match="Terms need unique names"):
            Distiller(student=models[0], teacher=models[1], terms=[Term(Hint(), name=name) for name in names])


def test_serialization():
    term = Term(KLDivergence(Linear(4.0, 1.0, 10)), "a", "b", Projection(), weight=Linear(0.0, 1.0, 5), name="kd")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(term))
    assert (revived.student, revived.teacher, revived.name) == ("a", "b", "kd")
    assert revived.weight.get_config() == term.weight.get_config()
    assert revived.loss.temperature.get_config() == term.loss.temperature.get_config()
    assert type(revived.head) is Projection


def test_missing_labels_raise():
    distiller = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(DecoupledKD())])
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="Term 'decoupled_kd' needs labels"):
        distiller.fit(features(8, 8), verbose=0)


def test_teacher_gets_no_gradient():
    import tensorflow as tf

    term = Term(Hint(), name="hint").build(spec(4), spec(4))
    student, teacher = tf.constant(features(3, 4)), tf.constant(features(3, 4, seed=1))
    with tf.GradientTape() as tape:
        tape.watch([student, teacher])
        loss = term.compare(student, teacher, Batch(None))
    gradients = tape.gradient(loss, [student, teacher])
    assert gradients[1] is None and np.abs(gradients[0]).max() > 0


def cnn(name):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, padding="same", name="early"),
            keras.layers.Conv2D(6, 3, strides=2, padding="same", name="late"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ],
        name=name,
    )


def test_loss_with_several_taps(tmp_path):
    from keras_distill import load_distiller
    from keras_distill.losses import FSP
    from keras_distill.losses.fsp import fsp
    from keras_distill.models.taps import Taps
    from tests.support.helpers import compiled, data, fitted

    student, teacher, x = cnn("student"), cnn("teacher"), features(24, 8, 8, 1)
    pair = ("early", "late")
    distiller = compiled(
        Distiller(student=student, teacher=teacher, terms=[Term(FSP(), pair, pair)]), keras.optimizers.SGD(0.0)
    )
    logged = fitted(distiller, x, data()[1])["fsp_loss"]
    tapped = [Taps(model, pair)(x, training=False) for model in (student, teacher)]
    reference = fsp(*(activations[name] for activations in tapped for name in pair))
    np.testing.assert_allclose(logged, [np.mean(reference)], rtol=1e-5)
    distiller.save(tmp_path / "d.keras")
    assert load_distiller(tmp_path / "d.keras", teacher).terms[0].student == pair
    with pytest.raises(ValueError, match="maps one activation, but the term taps several"):
        Distiller(student=student, teacher=teacher, terms=[Term(FSP(), pair, pair, head=Projection())])
    with pytest.raises(ValueError, match=r"cannot compare student '\('late', 'early'\)'"):
        Distiller(student=student, teacher=teacher, terms=[Term(FSP(), ("late", "early"), pair)])


def test_several_taps_for_a_single_tap_loss_raise():
    with pytest.raises(ValueError, match=r"Hint compares one activation. Received: student=\('a', 'b'\)"):
        Term(Hint(), ("a", "b"), "a")
