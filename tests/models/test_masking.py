"""Padding masks and sample weights."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller
from keras_distill.data.batch import Batch
from keras_distill.data.sample_weights import entry_of_tap
from keras_distill.losses import Hint, SimilarityPreserving
from keras_distill.models.masking import mean_over_positions
from keras_distill.models.specs import Spec
from keras_distill.training.term import Term
from tests.support.helpers import features


def masked(activation, mask):
    tensor = tf.constant(activation)
    tensor._keras_mask = tf.constant(mask)
    return tensor


def term(loss, student, teacher):
    return Term(loss, name="term").build(
        *(Spec((None, *array.shape[1:]), "float32", "") for array in (student, teacher))
    )


MASK = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], bool)


@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_positions_masked_by_either_model_are_ignored(sides):
    student, teacher = features(3, 3, 4), features(3, 3, 4, seed=1)
    tensors = [masked(array, MASK) if side else tf.constant(array) for array, side in zip((student, teacher), sides)]
    values = term(Hint(), student, teacher).compare(*tensors, Batch(None))
    reference = [((s - t)[m] ** 2).mean() for s, t, m in zip(student, teacher, MASK)]
    np.testing.assert_allclose(values, reference, rtol=1e-6)


def test_masks_of_both_models_are_combined():
    student, teacher = features(1, 3, 4), features(1, 3, 4, seed=1)
    tensors = masked(student, [[True, True, False]]), masked(teacher, [[False, True, True]])
    values = term(Hint(), student, teacher).compare(*tensors, Batch(None))
    np.testing.assert_allclose(values, [((student - teacher)[0, 1] ** 2).mean()], rtol=1e-6)


def test_models_with_different_lengths_use_separate_masks():
    student, teacher = features(3, 3, 4), features(3, 5, 4, seed=1)
    other = np.arange(5) < np.array([[5], [2], [3]])
    values = term(SimilarityPreserving(), student, teacher).compare(
        masked(student, MASK), masked(teacher, other), Batch(None)
    )
    zeroed = student * MASK[..., None], teacher * other[..., None]
    reference = term(SimilarityPreserving(), student, teacher).compare(*map(tf.constant, zeroed), Batch(None))
    np.testing.assert_allclose(values, reference, rtol=1e-6)


def test_nan_at_padded_positions_is_ignored():
    student, teacher = features(3, 3, 4), features(3, 3, 4, seed=1)
    teacher[~MASK] = np.nan
    tensor = masked(student, MASK)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        values = term(Hint(), student, teacher).compare(tensor, tf.constant(teacher), Batch(None))
    assert np.isfinite(values).all() and np.isfinite(tape.gradient(values, tensor)).all()


def test_loss_of_a_fully_masked_example_is_zero():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    values = term(Hint(), student, teacher).compare(
        masked(student, [[True] * 3, [False] * 3]), tf.constant(teacher), Batch(None)
    )
    assert values[1] == 0 and values[0] > 0


@pytest.mark.parametrize("mask", [None, MASK])
def test_sample_weights_per_token(mask):
    student, teacher = features(3, 3, 4), features(3, 3, 4, seed=1)
    weights = np.array([[0, 1, 2], [3, 1, 1], [0, 0, 5]], "float32")
    tensor = tf.constant(student) if mask is None else masked(student, mask)
    values = term(Hint(), student, teacher).compare(tensor, tf.constant(teacher), Batch(None, sample_weight=weights))
    per_token = ((student - teacher) ** 2).mean(axis=-1)
    valid = np.ones_like(MASK) if mask is None else mask
    reference = [(w * v)[m].sum() / m.sum() for w, v, m in zip(weights, per_token, valid)]
    np.testing.assert_allclose(values, reference, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_sample_weights_per_example(shape):
    student, teacher, weights = features(3, 4), features(3, 4, seed=1), np.array([0.0, 1.0, 3.0], "float32")
    values = term(Hint(), student, teacher).compare(
        tf.constant(student), tf.constant(teacher), Batch(None, sample_weight=weights.reshape(shape))
    )
    np.testing.assert_allclose(values, weights * ((student - teacher) ** 2).mean(axis=-1), rtol=1e-6)


def test_sample_weights_of_several_outputs():
    student, teacher = features(2, 4), features(2, 4, seed=1)
    weights = {"a": np.array([1.0, 2.0], "float32"), "b": np.array([3.0, 0.0], "float32")}
    plain = ((student - teacher) ** 2).mean(axis=-1)
    for tap, expected in (("output[a]", [1, 2]), ("output[b]", [3, 0]), ("hidden", [2, 1])):
        built = Term(Hint(), tap, name="term").build(*(Spec((None, 4), "float32", ""),) * 2)
        values = built.compare(tf.constant(student), tf.constant(teacher), Batch(None, sample_weight=weights))
        np.testing.assert_allclose(values, plain * expected, rtol=1e-6)


def test_entry_of_tap():
    assert entry_of_tap(3, "output[a]") == 3
    assert entry_of_tap({"a": 1}, "output['a']") == 1
    assert entry_of_tap([1, 2], "output[1]") == 2
    assert entry_of_tap({"a": 1}, "hidden") is None


def test_mean_over_positions():
    values = np.array([[1.0, 2.0, 6.0], [4.0, 5.0, 9.0]], "float32")
    np.testing.assert_allclose(mean_over_positions(values), [3.0, 6.0])
    np.testing.assert_allclose(mean_over_positions(values, np.array([[1, 1, 0], [0, 0, 0]])), [1.5, 0.0])


def model_with_padding_input(name, layers=1):
    """Return a model whose padding mask is an input, as in KerasHub, so that it attaches no Keras mask."""
    tokens, padding = keras.Input((3,), dtype="int32", name="tokens"), keras.Input((3,), name="padding")
    x = keras.layers.Embedding(9, 4, name="embedding")(tokens)
    for number in range(layers):
        x = keras.layers.Dense(4, name=f"block_{number}")(x)
    pooled = keras.layers.GlobalAveragePooling1D()(x, mask=padding)
    inputs = {"tokens": tokens, "padding": padding}
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(pooled), name=name)


@pytest.mark.parametrize("mask", [None, "padding"])
def test_mask_from_an_input(mask):
    student, teacher = model_with_padding_input("student"), model_with_padding_input("teacher")
    inputs = {"tokens": np.array([[1, 2, 3], [4, 0, 0], [5, 6, 0]]), "padding": MASK.astype("float32")}
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "block_0", "block_0", mask=mask)])
    distiller.compile("sgd")
    logs = distiller.evaluate(inputs, return_dict=True, verbose=0)
    tokens = [
        keras.Model(m.input, m.get_layer("block_0").output).predict(inputs, verbose=0) for m in (student, teacher)
    ]
    valid = MASK if mask else np.ones_like(MASK)
    expected = np.mean([((s - t)[m] ** 2).mean() for s, t, m in zip(*tokens, valid)])
    np.testing.assert_allclose(logs["hint_loss"], expected, rtol=1e-5)


def test_input_mask_is_combined_with_the_keras_mask():
    student, teacher = features(3, 3, 4), features(3, 3, 4, seed=1)
    padding = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 1]])
    built = dataclasses.replace(term(Hint(), student, teacher), mask="padding")
    values = built.compare(masked(student, MASK), tf.constant(teacher), Batch({"padding": padding}))
    expected = [((s - t)[m & p.astype(bool)] ** 2).mean() for s, t, m, p in zip(student, teacher, MASK, padding)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("tap", "mask", "message"),
    [
        (
            "block_0",
            "padded",
            r"The mask of term 'hint' is the input 'padded', which does not exist. Inputs: \['tokens', 'padding'\]",
        ),
        ("logits", "padding", r"mask 'padding' of term 'hint' has shape \(None, 3\), .* student 'logits' of shape"),
    ],
)
def test_missing_or_unsuitable_mask_raises(tap, mask, message):
    with pytest.raises(ValueError, match=message):
        Distiller(
            student=model_with_padding_input("student"),
            teacher=model_with_padding_input("teacher"),
            terms=[Term(Hint(), tap, tap, mask=mask)],
        )
