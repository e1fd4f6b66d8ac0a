"""Top-k logits, compared with logits of all classes in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.data.top_k import TopKLogits

WORDS = 9


def stored(seed, k=4, shape=(3, 2)):
    """Return top-k logits as a cache stores them, and the float64 logits of all classes."""
    rng = np.random.default_rng(seed)
    # Few different values, so that logits are equal; any order of the classes.
    top = rng.integers(-4, 4, (*shape, k + 1)).astype("float32")
    classes = np.argsort(rng.random((*shape, WORDS)), axis=-1)[..., :k].astype("int32")
    dense = np.repeat(top[..., k:].astype("float64") - np.log(WORDS - k), WORDS, axis=-1)
    np.put_along_axis(dense, classes, top[..., :k], axis=-1)
    return TopKLogits.from_bucket(top, classes, WORDS), dense


def bucket(dense, classes, temperature):
    """Return the logit of all classes but these."""
    probabilities = np.exp(dense / temperature)
    np.put_along_axis(probabilities, classes, 0.0, axis=-1)
    with np.errstate(divide="ignore"):
        return temperature * np.log(probabilities.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_all_classes(seed, k):
    logits, dense = stored(seed, k)
    assert logits.shape == dense.shape
    np.testing.assert_allclose(logits.dense(), dense, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("k", [1, 3, 4, 5, 8, 9])
def test_the_largest_are_those_of_all_classes(k, temperature, jit_compile):
    largest = tf.function(lambda *parts: TopKLogits(*parts, WORDS).largest(k, temperature), jit_compile=jit_compile)
    for seed in range(4):
        logits, dense = stored(seed)
        values, classes = (np.asarray(x) for x in largest(*logits.parts))
        expected = np.argsort(-dense, axis=-1, kind="stable")[..., :k]
        np.testing.assert_array_equal(classes, expected)
        np.testing.assert_allclose(values[..., :k], np.take_along_axis(dense, expected, axis=-1), rtol=1e-6)
        rest = np.maximum(bucket(dense, expected, temperature), -1e30)
        np.testing.assert_allclose(values[..., k:], rest, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(logits.largest(k, tail=False)[0], values[..., :k])


@pytest.mark.parametrize("words", range(1, WORDS + 1))
def test_the_first_words_are_those_of_all_classes(words):
    for seed in range(6):
        logits, dense = stored(seed)
        first = logits.first(words)
        assert isinstance(first, TopKLogits) == (words > 4)
        if isinstance(first, TopKLogits):
            # Each class once.
            assert (np.diff(np.sort(first.classes, axis=-1)) > 0).all()
            first = first.dense()
        np.testing.assert_allclose(first, dense[..., :words], rtol=1e-6)
