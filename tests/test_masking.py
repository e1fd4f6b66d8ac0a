import numpy as np
import pytest
import tensorflow as tf
from helpers import features

from keras_distill.batch import Batch
from keras_distill.losses import Hint, SimilarityPreserving
from keras_distill.masking import entry_of_tap, mean_over_positions
from keras_distill.specs import Spec
from keras_distill.term import Term


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
def test_padding_of_either_model_is_left_out(sides):
    student, teacher = features(3, 3, 4), features(3, 3, 4, seed=1)
    tensors = [masked(array, MASK) if side else tf.constant(array) for array, side in zip((student, teacher), sides)]
    values = term(Hint(), student, teacher).compare(*tensors, Batch(None))
    reference = [((s - t)[m] ** 2).mean() for s, t, m in zip(student, teacher, MASK)]
    np.testing.assert_allclose(values, reference, rtol=1e-6)


def test_what_both_leave_out_is_the_union():
    student, teacher = features(1, 3, 4), features(1, 3, 4, seed=1)
    tensors = masked(student, [[True, True, False]]), masked(teacher, [[False, True, True]])
    values = term(Hint(), student, teacher).compare(*tensors, Batch(None))
    np.testing.assert_allclose(values, [((student - teacher)[0, 1] ** 2).mean()], rtol=1e-6)


def test_models_with_positions_of_their_own():
    student, teacher = features(3, 3, 4), features(3, 5, 4, seed=1)
    other = np.arange(5) < np.array([[5], [2], [3]])
    values = term(SimilarityPreserving(), student, teacher).compare(
        masked(student, MASK), masked(teacher, other), Batch(None)
    )
    zeroed = student * MASK[..., None], teacher * other[..., None]
    reference = term(SimilarityPreserving(), student, teacher).compare(*map(tf.constant, zeroed), Batch(None))
    np.testing.assert_allclose(values, reference, rtol=1e-6)


def test_padding_that_is_not_finite_hurts_nobody():
    student, teacher = features(3, 3, 4), features(3, 3, 4, seed=1)
    teacher[~MASK] = np.nan
    tensor = masked(student, MASK)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        values = term(Hint(), student, teacher).compare(tensor, tf.constant(teacher), Batch(None))
    assert np.isfinite(values).all() and np.isfinite(tape.gradient(values, tensor)).all()


def test_an_example_of_padding_alone_costs_nothing():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    values = term(Hint(), student, teacher).compare(
        masked(student, [[True] * 3, [False] * 3]), tf.constant(teacher), Batch(None)
    )
    assert values[1] == 0 and values[0] > 0


@pytest.mark.parametrize("mask", [None, MASK])
def test_weights_of_tokens_are_weights_of_positions(mask):
    student, teacher = features(3, 3, 4), features(3, 3, 4, seed=1)
    weights = np.array([[0, 1, 2], [3, 1, 1], [0, 0, 5]], "float32")
    tensor = tf.constant(student) if mask is None else masked(student, mask)
    values = term(Hint(), student, teacher).compare(tensor, tf.constant(teacher), Batch(None, sample_weight=weights))
    per_token = ((student - teacher) ** 2).mean(axis=-1)
    seen = np.ones_like(MASK) if mask is None else mask
    reference = [(w * v)[m].sum() / m.sum() for w, v, m in zip(weights, per_token, seen)]
    np.testing.assert_allclose(values, reference, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_weights_of_examples(shape):
    student, teacher, weights = features(3, 4), features(3, 4, seed=1), np.array([0.0, 1.0, 3.0], "float32")
    values = term(Hint(), student, teacher).compare(
        tf.constant(student), tf.constant(teacher), Batch(None, sample_weight=weights.reshape(shape))
    )
    np.testing.assert_allclose(values, weights * ((student - teacher) ** 2).mean(axis=-1), rtol=1e-6)


def test_weights_of_several_outputs():
    student, teacher = features(2, 4), features(2, 4, seed=1)
    weights = {"a": np.array([1.0, 2.0], "float32"), "b": np.array([3.0, 0.0], "float32")}
    plain = ((student - teacher) ** 2).mean(axis=-1)
    for tap, expected in (("output[a]", [1, 2]), ("output[b]", [3, 0]), ("hidden", [2, 1])):
        built = Term(Hint(), tap, name="term").build(*(Spec((None, 4), "float32", ""),) * 2)
        values = built.compare(tf.constant(student), tf.constant(teacher), Batch(None, sample_weight=weights))
        np.testing.assert_allclose(values, plain * expected, rtol=1e-6)


def test_entries_of_taps():
    assert entry_of_tap(3, "output[a]") == 3
    assert entry_of_tap({"a": 1}, "output['a']") == 1
    assert entry_of_tap([1, 2], "output[1]") == 2
    assert entry_of_tap({"a": 1}, "hidden") is None


def test_the_mean_over_positions():
    values = np.array([[1.0, 2.0, 6.0], [4.0, 5.0, 9.0]], "float32")
    np.testing.assert_allclose(mean_over_positions(values), [3.0, 6.0])
    np.testing.assert_allclose(mean_over_positions(values, np.array([[1, 1, 0], [0, 0, 0]])), [1.5, 0.0])
