"""Completions: windows and weights against NumPy, and texts that leave nothing to train on."""

import functools
import io

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.language import completions
from tests.support.hub_models import WINDOW, gpt2_preprocessor

PROMPTS, RESPONSES = ["ab c", "", "xyz"], [" de", "fab", " responses that are too long"]


def expected(preprocessor, prompts, responses):
    """Return tokens, padding mask and weights by NumPy, from the tokenizer alone."""
    tokenizer, length = preprocessor.tokenizer, preprocessor.sequence_length + 1
    tokens, mask, weights = (np.zeros((len(prompts), length), "int32") for _ in range(3))
    tokens += tokenizer.pad_token_id
    for row, (prompt, response) in enumerate(zip(prompts, responses)):
        start = [tokenizer.start_token_id] * preprocessor.add_start_token
        end = [tokenizer.end_token_id] * preprocessor.add_end_token
        head, body = start + [*tokenizer(prompt)], [*tokenizer(response)]
        room = length - len(end)
        text = (head + body)[:room] + end
        tokens[row, : len(text)], mask[row, : len(text)] = text, 1
        weights[row, len(head) : len(text)] = 1
        if len(head + body) > room:
            weights[row, room:] = 0
    return tokens, mask, weights


def assert_examples(examples, preprocessor, prompts, responses):
    x, y, sample_weight = examples
    tokens, mask, weights = expected(preprocessor, prompts, responses)
    assert set(x) == {"token_ids", "padding_mask"}
    np.testing.assert_array_equal(x["token_ids"], tokens[:, :-1])
    np.testing.assert_array_equal(x["padding_mask"], mask[:, :-1])
    np.testing.assert_array_equal(y, tokens[:, 1:])
    np.testing.assert_array_equal(sample_weight, weights[:, 1:])


def sentence_piece():
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab c de", "fab xyz", "responses that are too long"]), model_writer=model,
        vocab_size=30, model_type="bpe", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = keras_hub.models.LlamaTokenizer(proto=model.getvalue())
    return keras_hub.models.LlamaCausalLMPreprocessor(tokenizer, sequence_length=WINDOW)


PREPROCESSORS = {
    "byte pairs": gpt2_preprocessor,
    "without start": lambda: gpt2_preprocessor(add_start_token=False),
    "without end": lambda: gpt2_preprocessor(add_end_token=False),
    "sentence pieces": sentence_piece,
}


@functools.cache
def made(name="byte pairs"):
    """Return a preprocessor and its completions; tracing a tokenizer takes seconds."""
    preprocessor = PREPROCESSORS[name]()
    return preprocessor, completions(preprocessor)


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_windows_and_weights_equal_numpy(name):
    preprocessor, function = made(name)
    assert_examples(function(PROMPTS, RESPONSES), preprocessor, PROMPTS, RESPONSES)
    batch = {"prompts": PROMPTS, "responses": RESPONSES}
    dataset = tf.data.Dataset.from_tensor_slices(batch)
    (mapped,) = dataset.batch(3).map(function)
    assert_examples(mapped, preprocessor, PROMPTS, RESPONSES)
    (mapped,) = dataset.map(function).batch(3)
    assert_examples(mapped, preprocessor, PROMPTS, RESPONSES)


def test_two_arguments_in_a_pipeline_and_texts_alone():
    preprocessor, function = made()
    (mapped,) = tf.data.Dataset.from_tensor_slices((PROMPTS, RESPONSES)).batch(3).map(function)
    assert_examples(mapped, preprocessor, PROMPTS, RESPONSES)
    assert_examples(function(["abc", "d"]), preprocessor, ["", ""], ["abc", "d"])


def test_texts_without_prompt_are_those_of_the_preprocessor():
    preprocessor, function = made()
    x, y, sample_weight = function(["", ""], ["abc", "d"])
    hub_x, hub_y, hub_weight = preprocessor(["abc", "d"])
    np.testing.assert_array_equal(x["token_ids"], hub_x["token_ids"])
    np.testing.assert_array_equal(x["padding_mask"], hub_x["padding_mask"])
    np.testing.assert_array_equal(y, hub_y)
    np.testing.assert_array_equal(sample_weight, hub_weight)


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (["ab", "c"], ["d", ""], r"no tokens.*empty response.*\[1\]"),
        (["abcabcabcabcabc", "c"], ["d", "e"], r"fills the window.*sequence_length.*\[0\]"),
        # The end token takes the last place.
        (["cdefghijk", "c"], ["d", "e"], r"fills the window"),
    ],
)
def test_texts_without_a_response(prompts, responses, message):
    _, function = made()
    with pytest.raises(ValueError, match=message):
        function(prompts, responses)
    dataset = tf.data.Dataset.from_tensor_slices((prompts, responses)).batch(2).map(function)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message.partition(".*")[0]):
        list(dataset)


def test_the_longest_prompt():
    _, _, sample_weight = made()[1](["cdefghij"], ["ab"])
    assert sample_weight.numpy().sum() == 2 and sample_weight[0, -1] == 1


@pytest.mark.parametrize("preprocessor", [None, "gpt2", object()])
def test_no_preprocessor(preprocessor):
    with pytest.raises(ValueError, match="CausalLMPreprocessor"):
        completions(preprocessor)
