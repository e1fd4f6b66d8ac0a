"""Sampling: distributions against NumPy, seeds and stop tokens."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.language.sampling import Sampling, continue_texts, fold_in, uniform, until_stop

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -float("inf")])
ROWS = 20_000


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def frequencies(sampling, logits=LOGITS):
    words = sampling.choose(tf.constant(np.tile(logits, (ROWS, 1)), "float32"), tf.constant([3, 4]))
    return np.bincount(words.numpy(), minlength=len(logits))


def assert_drawn_from(counts, probabilities):
    """Compare by the chi-square statistic, whose bound is exceeded with probability 0.001 for 5 degrees of freedom."""
    assert not counts[probabilities == 0].any()
    wanted = counts.sum() * probabilities[probabilities > 0]
    assert ((counts[probabilities > 0] - wanted) ** 2 / wanted).sum() < 20.5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_are_those_of_the_softmax(temperature):
    assert_drawn_from(frequencies(Sampling(temperature)), softmax(LOGITS / temperature))


def test_top_k_and_top_p():
    probabilities = softmax(LOGITS)
    first_two = np.where(np.arange(6) < 2, probabilities, 0)
    assert_drawn_from(frequencies(Sampling(top_k=2)), first_two / first_two.sum())
    # The first word has 0.56, the first two 0.77 of the probability.
    assert_drawn_from(frequencies(Sampling(top_p=0.7)), first_two / first_two.sum())
    assert frequencies(Sampling(top_p=0.5))[0] == ROWS
    assert_drawn_from(frequencies(Sampling(top_k=100, top_p=1.0)), probabilities)


def test_temperature_zero_is_greedy():
    assert frequencies(Sampling(0.0))[0] == ROWS


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": 1.5}],
)
def test_numbers_out_of_range(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Sampling(**arguments)


def test_seeds_depend_on_every_number():
    seeds = {
        tuple(fold_in([seed, 0], step, replica).numpy()) for seed in (0, 1) for step in (0, 1) for replica in (0, 1)
    }
    assert len(seeds) == 8
    numbers = uniform((10_000,), fold_in([0, 0], 7)).numpy()
    assert numbers.min() > 0 and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(numbers, uniform((10_000,), fold_in([0, 0], 7)))


def test_texts_end_at_the_first_new_stop_token():
    """The next word is the last one plus 1; 5 is a stop token, also inside of the second prompt."""
    tokens = np.array([[3, 0, 0, 0, 0], [5, 1, 0, 0, 0]], "int32")
    prompt = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool)

    def next_logits(tokens, cache, index):
        return tf.one_hot(tf.gather(tokens, index - 1, axis=1) + 1, 9), cache

    def choose(logits, index):
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    found = continue_texts(next_logits, (), tf.constant(tokens), tf.constant(prompt), choose, 5, [5], 0)
    np.testing.assert_array_equal(found, [[3, 4, 5, 0, 0], [5, 1, 2, 3, 4]])
    np.testing.assert_array_equal(until_stop(found, prompt, 5, [5]), [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(until_stop(found, prompt, 4, []), [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
