"""Acceptance and AcceptedLength against decoding: KerasHub's SpeculativeSampler, and speculative sampling in NumPy."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_distill.metrics import Acceptance, AcceptedLength
from tests.support.helpers import softmax
from tests.support.hub_models import gpt2

K, WORDS = 3, 8


def predictions(model):
    """Return the functions of a draft model and of a verifying model, for `SpeculativeSampler`."""

    def logits(prompt, start, size):
        inputs = {"token_ids": prompt, "padding_mask": ops.ones_like(prompt)}
        return ops.slice(model(inputs), (0, start, 0), (1, size, ops.shape(model.output)[-1]))

    def draft(prompt, cache, index):
        return logits(prompt, index - 1, 1)[:, 0], None, cache

    def verify(prompt, cache, index, k):
        return logits(prompt, ops.minimum(index - 1, ops.shape(prompt)[1] - k - 1), k + 1), cache

    return draft, verify


def test_greedy_drafts_of_keras_hub():
    """The length of each draft is that of the metric at its first position."""
    window = 40
    teacher, student = gpt2(1, window=window), gpt2(1, window=window)
    rng = np.random.default_rng(0)
    student.set_weights([weight + rng.normal(size=weight.shape, scale=0.3) for weight in student.get_weights()])
    draft, (_, verify) = predictions(student)[0], predictions(teacher)
    starts = []

    def recorded(prompt, cache, index, k):
        starts.append(int(index))
        return verify(prompt, cache, index, k)

    sampler = keras_hub.samplers.SpeculativeSampler(num_speculative_tokens=K)
    prompt = np.zeros((1, window), "int32")
    prompt[0, 0] = 5
    text = sampler(None, ops.convert_to_tensor(prompt), index=1, draft_next=draft, verify_next=recorded)
    inputs = {"token_ids": text, "padding_mask": ops.ones_like(text)}
    # The end of the window truncates the last drafts.
    lengths = {start: end - start - 1 for start, end in zip(starts, starts[1:]) if end + K < window}
    assert len(set(lengths.values())) > 2, lengths
    of_student, of_teacher = (np.array(model(inputs))[0] for model in (student, teacher))
    drafts = [slice(start - 1, start - 1 + K) for start in lengths]
    metric = AcceptedLength(K, temperature=0)
    metric.update_state(
        np.stack([of_student[each] for each in drafts]), np.stack([of_teacher[each] for each in drafts])
    )
    np.testing.assert_allclose(metric.result(), np.mean(list(lengths.values())), rtol=1e-6)
    assert list(of_teacher.argmax(-1)[: max(lengths)]) == list(np.array(text)[0, 1 : max(lengths) + 1])


def chains(seed=0):
    """Return logits of the next token after each token, `[WORDS, WORDS]`, of a student and a teacher."""
    rng = np.random.default_rng(seed)
    teacher = 2 * rng.normal(size=(WORDS, WORDS))
    return teacher + 1.5 * rng.normal(size=(WORDS, WORDS)), teacher


def choose(rng, probabilities):
    """Draw one token from each row."""
    return (rng.random((len(probabilities), 1)) > probabilities.cumsum(-1)[:, :-1]).sum(-1)


def text_of(rng, probabilities, length):
    tokens = [0]
    for _ in range(length - 1):
        tokens.append(int(choose(rng, probabilities[tokens[-1:]])[0]))
    return np.array(tokens)


def drafted(rng, student, teacher, tokens, k):
    """Return the number of accepted tokens of a draft after each token (Leviathan et al. 2023, algorithm 1)."""
    accepted, running = np.zeros(len(tokens)), np.ones(len(tokens), bool)
    for _ in range(k):
        following = choose(rng, student[tokens])
        running &= rng.random(len(tokens)) < teacher[tokens, following] / student[tokens, following]
        accepted += running
        tokens = following
    return accepted


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("k", [1, 4])
def test_lengths_of_sampled_drafts(k, temperature):
    """Drafts begin after each token of a text that the teacher wrote."""
    rng, (student, teacher) = np.random.default_rng(1), chains()
    probabilities = softmax(student, temperature), softmax(teacher, temperature)
    tokens = text_of(rng, probabilities[1], 20_000)
    lengths = drafted(rng, *probabilities, tokens, k)
    metrics = [AcceptedLength(k, temperature)] + [Acceptance(temperature)] * (k == 1)
    for metric in metrics:
        metric.update_state(student[tokens][None], teacher[tokens][None])
        # The value of longer drafts is an estimate, see `AcceptedLength`.
        tolerance = 4 * lengths.std() / len(tokens) ** 0.5 + (0 if k == 1 else 0.02 * lengths.mean())
        assert abs(float(metric.result()) - lengths.mean()) < tolerance
    other = AcceptedLength(k, 2 * temperature)
    other.update_state(student[tokens][None], teacher[tokens][None])
    assert abs(float(other.result()) - lengths.mean()) > 2 * tolerance


def test_sampled_drafts_of_keras_hub_are_the_most_probable_tokens():
    """With a base sampler, KerasHub accepts the student's best token with the probability `min(1, p_t / p_s)`.

    The rate is not that of drawn drafts, which `Acceptance` measures: this test fails once KerasHub draws them.
    """
    (student, teacher), count = chains(), 3000
    p_student, p_teacher = softmax(student), softmax(teacher)
    best = p_student.argmax(-1)
    tokens = text_of(np.random.default_rng(1), p_teacher, count)
    sampler = keras_hub.samplers.SpeculativeSampler(1, keras_hub.samplers.RandomSampler(seed=0), seed=1)
    rows = [tf.constant(logits, "float32") for logits in (student, teacher)]

    def second_token(first):
        return sampler(
            None,
            tf.stack([first, 0])[None],
            index=1,
            draft_next=lambda prompt, cache, index: (tf.gather(rows[0], prompt[:, 0]), None, cache),
            verify_next=lambda prompt, cache, index, k: (tf.gather(rows[1], prompt), cache),
        )[0, 1]

    found = tf.function(lambda: tf.map_fn(second_token, tf.constant(tokens, "int32")), autograph=False)()
    # A rejected token is replaced by another one.
    accepted = found.numpy() == best[tokens]
    wanted = np.minimum(1, p_teacher / p_student)[tokens, best[tokens]]
    error = (wanted * (1 - wanted)).mean() ** 0.5 / count**0.5
    assert abs(accepted.mean() - wanted.mean()) < 4 * error
    metric = Acceptance()
    metric.update_state(student[tokens][None], teacher[tokens][None])
    assert abs(float(metric.result()) - wanted.mean()) > 4 * error
