"""`Term(teacher_head=)`: an untrained transform of the teacher's activation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_distill import Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.heads import Convolution, Projection, Resize, Standardization
from keras_distill.losses import (
    AttentionTransfer,
    BinaryKD,
    FocalGlobalKD,
    Hint,
    KLDivergence,
    RelationalKD,
    TokenSimilarity,
)
from keras_distill.models.specs import Spec
from tests.support.helpers import compiled, data, features, fitted, mlp, softened_kl, zero_rate_sgd

BINS = 9


def spec(*shape):
    return Spec((None, *shape), "float32", "")


def built(term, student, teacher):
    return term.build(spec(*student.shape[1:]), spec(*teacher.shape[1:]))


def pooled(tokens):
    return ops.mean(tokens, axis=1)


def unit_length(vectors):
    return tf.math.l2_normalize(vectors, axis=-1)


@pytest.mark.parametrize(
    ("teacher_head", "expected"),
    [
        (pooled, lambda t: t.mean(1)),
        (lambda t: t[:, 0], lambda t: t[:, 0]),
        (keras.layers.Lambda(lambda t: t[:, 0]), lambda t: t[:, 0]),
        (keras.layers.GlobalMaxPooling1D(), lambda t: t.max(1)),
        (
            keras.Sequential([keras.layers.Flatten(), keras.layers.Activation("tanh")]),
            lambda t: np.tanh(t.reshape(4, -1)),
        ),
    ],
)
def test_transforms_the_teacher_before_the_loss(teacher_head, expected):
    teacher = features(4, 5, 6, seed=1)
    expected = expected(teacher.astype("float64"))
    student = features(*expected.shape)
    term = built(Term(Hint(), name="t", teacher_head=teacher_head), student, teacher)
    values = term.compare(student, teacher, Batch(None))
    np.testing.assert_allclose(values, ((student - expected) ** 2).mean(-1), rtol=1e-5)


def test_the_teacher_and_its_head_get_no_gradient():
    student, teacher = tf.constant(features(4, 6)), tf.constant(features(4, 6, seed=1))
    term = built(Term(Hint(), name="t", teacher_head=unit_length), student, teacher)
    with tf.GradientTape() as tape:
        tape.watch([student, teacher])
        values = term.compare(student, teacher, Batch(None))
    gradients = tape.gradient(values, [student, teacher])
    assert np.any(gradients[0]) and gradients[1] is None


def test_localization_distillation_of_box_edges():
    # Four edges with a distribution over bins each, at every position of a feature map.
    student, teacher = features(2, 3, 4, 4 * BINS), features(2, 3, 4, 4 * BINS, seed=1)
    edges = keras.layers.Reshape((3, 4, 4, BINS))
    score = np.random.default_rng(2).uniform(size=(2, 3, 4)).astype("float32")
    term = Term(KLDivergence(10.0), name="ld", head=edges, teacher_head=edges, positions="score", over="tokens")
    values = built(term, student, teacher).compare(student, teacher, Batch(None), activations={"score": score})
    kl = softened_kl(*(x.reshape(2, 3, 4, 4, BINS) for x in (student, teacher)), 10.0).mean(-1)
    np.testing.assert_allclose(np.mean(values), (kl * score).sum() / score.sum(), rtol=1e-4)


def test_the_shapes_after_the_heads_decide():
    # The rank that RelationalKD takes, and the widths between which the automatic head maps.
    assert Term(RelationalKD(), teacher_head=pooled, name="t").build(spec(8), spec(5, 6)).loss.built
    term = Term(Hint(), head="auto", teacher_head=pooled, name="t").build(spec(8), spec(5, 6))
    assert isinstance(term.head, Projection) and term.head(features(2, 8)).shape == (2, 6)
    assert Term(Hint(), head="auto", teacher_head=pooled, name="t").build(spec(6), spec(5, 6)).head is None


def test_a_head_without_weights_maps_to_the_students_shape():
    student, teacher = features(2, 4, 6, 3), features(2, 8, 9, 3, seed=1)
    term = built(Term(Hint(), name="t", teacher_head=Resize()), student, teacher)
    resized = ops.image.resize(teacher, (4, 6))
    np.testing.assert_allclose(
        term.compare(student, teacher, Batch(None)), ((student - resized) ** 2).numpy().mean((1, 2, 3)), rtol=1e-5
    )


def test_padding_reaches_it_as_0():
    teacher, mask = features(4, 5, 6, seed=1), np.array([[1, 1, 1, 0, 0]] * 4)
    teacher[:, 3:] = np.nan
    term = Term(Hint(), name="t", mask="mask", teacher_head=lambda t: t + ops.sum(t, axis=1, keepdims=True))
    student = features(4, 5, 6)
    values = built(term, student, teacher).compare(student, teacher, Batch({"mask": mask}))
    expected = ((student[:, :3] - teacher[:, :3] - teacher[:, :3].sum(1, keepdims=True)) ** 2).mean((1, 2))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("term", "student", "teacher", "message"),
    [
        (
            Term(Hint(), "a", "b", name="t", teacher_head=keras.layers.Dense(3)),
            (3,),
            (5,),
            r"Term 't' cannot compare student 'a' with teacher 'b'. `teacher_head` is not trained, but '.*' has the "
            r"trainable weights \['.*kernel', '.*bias'\]. Freeze it by `.*\.trainable = False`",
        ),
        (
            Term(Hint(), "a", "b", name="t", teacher_head=Convolution()),
            (4, 4, 3),
            (4, 4, 5),
            "'convolution.*' has the trainable weights",
        ),
        (
            Term(Hint(), "a", "b", name="t", teacher_head=keras.layers.Reshape((4, 17))),
            (3,),
            (5,),
            r"student 'a' with teacher 'b'. `teacher_head` cannot take an activation of shape \(None, 5\)",
        ),
        (
            Term(Hint(), "a", "b", name="t", teacher_head=lambda t: ops.matmul(t, ops.ones((7, 7)))),
            (3,),
            (5,),
            r"`teacher_head` cannot take an activation of shape \(None, 5\): ValueError: .*\[\?,5\], \[7,7\]",
        ),
        (
            Term(Hint(), "a", "b", name="t", teacher_head=ops.mean),
            (3,),
            (5,),
            r"with teacher 'b'. `teacher_head` must return a row for each example, shape \[batch, ...\]",
        ),
        (
            Term(Hint(), "a", "b", name="t", teacher_head=pooled),
            (3,),
            (4, 5),
            r"teacher 'b' of shape \(None, 4, 5\), \(None, 5\) after `teacher_head`. Choose another `teacher_head`",
        ),
        (
            Term(RelationalKD(), "a", "b", name="t", teacher_head=keras.layers.Reshape((5, 1))),
            (5,),
            (5,),
            r"rank 2. Received: student 'a' of shape \(None, 5\), teacher 'b' of shape \(None, 5, 1\) after its head.",
        ),
        (
            Term(BinaryKD(), "a", "b", name="t", teacher_head=lambda t: t[..., :2]),
            (5,),
            (5,),
            r"compares 5 student classes with 2 teacher classes.*\(None, 5\), \(None, 2\) after `teacher_head`",
        ),
    ],
)
def test_heads_that_do_not_fit_raise(term, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        term.build(spec(*student), spec(*teacher))


def test_other_types_raise():
    with pytest.raises(ValueError, match="A Term's `teacher_head` must be a layer or a function. Received: 'auto'"):
        Term(Hint(), teacher_head="auto")


@keras.saving.register_keras_serializable("tests")
def doubled(features):
    return 2 * features


def frozen_projection():
    layer = keras.layers.Dense(3, trainable=False, name="frozen")
    layer.build((None, 6))
    return layer


@pytest.mark.parametrize("kind", ["function", "layer", "frozen"])
def test_a_saved_distiller_has_its_teacher_heads(tmp_path, kind):
    keras.utils.set_random_seed(0)
    teacher_head = {"function": doubled, "layer": keras.layers.Reshape((3, 2)), "frozen": frozen_projection()}[kind]
    head = {"function": None, "layer": keras.layers.Reshape((3, 2)), "frozen": Projection()}[kind]
    teacher = mlp(6, name="teacher")
    term = Term(Hint(), "features", "features", head=head, teacher_head=teacher_head)
    distiller = compiled(Distiller(student=mlp(6), teacher=teacher, terms=[term]))
    x, y = data()
    before = [w.numpy() for layer in distiller.teacher_heads for w in layer.weights]
    fitted(distiller, x, y, epochs=2)
    after = [w.numpy() for layer in distiller.teacher_heads for w in layer.weights]
    np.testing.assert_equal(before, after)
    distiller.save(tmp_path / "distiller.keras")
    loaded = load_distiller(tmp_path / "distiller.keras", teacher)
    expected = distiller.evaluate(x, y, verbose=0, return_dict=True)["hint_loss"]
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0, return_dict=True)["hint_loss"], expected, rtol=1e-6)


def test_a_term_with_a_layer_makes_several_distillers():
    term = Term(AttentionTransfer(), "map", "map", teacher_head=Resize(), name="at")

    def backbone(size, stride, name):
        layers = [keras.Input((size, size, 3)), keras.layers.Conv2D(4, 3, stride, "same", name="map")]
        return keras.Sequential(layers, name=name)

    for size in (8, 12):
        distiller = Distiller(student=backbone(size, 4, "student"), teacher=backbone(size, 2, "teacher"), terms=[term])
        distiller.compile(zero_rate_sgd())
        assert np.isfinite(fitted(distiller, features(4, size, size, 3))["at_loss"]).all()


def test_summary_names_it(capsys):
    term = Term(Hint(), "features", "features", teacher_head=doubled)
    lines = []
    Distiller(student=mlp(6), teacher=mlp(6, name="teacher"), terms=[term]).summary(print_fn=lines.append)
    assert "student 'features' (None, 6) -> no head <- doubled <- teacher 'features' (None, 6)" in "\n".join(lines)


def hard_labels(logits):
    return 1e4 * ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1])


def test_hard_labels_of_the_teacher():
    student, teacher = features(6, 5, scale=3.0), features(6, 5, seed=1)
    term = built(Term(KLDivergence(), name="t", teacher_head=hard_labels), student, teacher)
    expected = keras.losses.sparse_categorical_crossentropy(teacher.argmax(-1), student, from_logits=True)
    np.testing.assert_allclose(term.compare(student, teacher, Batch(None)), expected, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_feature_maps_of_unknown_size(jit_compile):
    def backbone(channels, stride, name):
        layers = [keras.Input((None, None, 3)), keras.layers.Conv2D(channels, 3, stride, "same", name="map")]
        return keras.Sequential(layers, name=name)

    keras.utils.set_random_seed(0)
    student, teacher = backbone(4, 4, "student"), backbone(6, 2, "teacher")
    terms = [
        Term(FocalGlobalKD("boxes"), "map", "map", head="auto", name="fgd"),
        Term(TokenSimilarity(), "map", "map", head="auto", name="tokens"),
        Term(Hint(), "map", "map", head="auto", teacher_head=Standardization(), name="hint"),
    ]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile(zero_rate_sgd(), jit_compile=jit_compile)
    for size in (8, 16):
        boxes = np.tile(np.array([[[0.0, 0.0, 0.5, 1.0]]], "float32"), (4, 1, 1))
        logs = fitted(distiller, features(4, size, size, 3), {"boxes": boxes}, batch_size=4)
        assert all(np.isfinite(logs[f"{term.name}_loss"]).all() for term in terms)
