"""Texts as tokens of a byte-pair and of a WordPiece tokenizer, and spans in which both end."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.language import align_texts, shared_words, teacher_inputs
from keras_distill.language.alignment import aligned_spans
from keras_distill.language.token_texts import token_texts
from tests.support.hub_models import END, gpt2_preprocessor

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "##a", "cab", "##by", "bad", "b", "x", ","]


def word_piece_preprocessor(window=9):
    tokenizer = keras_hub.models.BertTokenizer(PIECES, lowercase=True)
    preprocessor = keras_hub.models.CausalLMPreprocessor(tokenizer, sequence_length=window)
    preprocessor.build(None)
    return preprocessor


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ("un aligned text s", "unaligned te xts", ([0, 0, 1, 1], [0, 1, 1])),
        ("a b c", "a b c", ([0, 1, 2], [0, 1, 2])),
        ("abc", "a b c", ([0], [0, 0, 0])),
        # Crossing ends: no common one before the last.
        ("ab cd e", "a bc de", ([0, 0, 0], [0, 0, 0])),
        # Truncated on one side: the tokens after the last common end are left out.
        ("ab cd", "a b c", ([0, -1], [0, 0, -1])),
        # Other characters from the third on.
        ("ab xd e", "ab cd e", ([0, -1, -1], [0, -1, -1])),
        ("", "a b", ([], [-1, -1])),
        # `_` is a token without text: it belongs to the next span, the last one to none.
        ("a _ b _", "a b", ([0, 1, 1, -1], [0, 1])),
    ],
)
def test_spans_end_where_tokens_of_both_end(student, teacher, expected):
    pieces = [[piece.replace("_", "").encode() for piece in side.split()] for side in (student, teacher)]
    assert aligned_spans(*pieces) == expected


def test_texts_of_tokens():
    byte_pair = token_texts(gpt2_preprocessor().tokenizer)
    letters = {index + 1: letter.encode() for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    assert byte_pair == {0: b"!", **letters, 27: b" ", 28: b"ab", END: b"\x00"}
    word_piece = [b"", None, b"", b"\x00", b"", b" a", b"b", b"a", b" cab", b"by", b" bad", b" b", b" x", b","]
    assert token_texts(word_piece_preprocessor().tokenizer) == dict(enumerate(word_piece))
    # "é" and the line break in the characters of byte-pair vocabularies.
    tokenizer = keras_hub.tokenizers.BytePairTokenizer({"Ã©Ċ": 4, "x": 0, "y": 1, "xy": 2}, ["x y"])
    assert token_texts(tokenizer) == {4: "é\n".encode(), 0: b"x", 1: b"y", 2: b"xy"}
    with pytest.raises(ValueError, match="must be a BytePairTokenizer, .*Received: <"):
        token_texts(keras_hub.tokenizers.ByteTokenizer())


def test_texts_of_sentence_piece_tokens(tmp_path):
    texts = tf.data.Dataset.from_tensor_slices(["a cab", "a bad cab"])
    proto = keras_hub.tokenizers.compute_sentence_piece_proto(texts, vocabulary_size=10, model_type="bpe")
    tokenizer = keras_hub.tokenizers.SentencePieceTokenizer(proto)
    found = token_texts(tokenizer)
    for text in ("a cab", "bad"):
        assert b"".join(found[int(token)] for token in tokenizer(text)) == f" {text}".encode()


def test_shared_words_have_the_same_text():
    byte_pair, word_piece = gpt2_preprocessor().tokenizer, word_piece_preprocessor().tokenizer
    # "a" and "b" inside of words, and the end tokens.
    assert shared_words(byte_pair, word_piece) == [(1, 7), (2, 6), (END, 3)]
    assert shared_words(word_piece, byte_pair) == [(3, END), (6, 2), (7, 1)]


def test_training_examples_of_two_tokenizers():
    """Spans and end tokens count, prompts do not, up to an unknown word or the end of a window."""
    prompts = ["a ", "", "b ", "x ", "x "]
    responses = ["cab abba", "bad, a", "a zz cab", "ab ab ab ab ab ab", "cab"]
    prepared = align_texts(gpt2_preprocessor(12), word_piece_preprocessor(9))
    x, y, weight = prepared(prompts, responses)
    assert x["token_ids"].shape == y.shape == weight.shape == (5, 12) and x["teacher_token_ids"].shape == (5, 9)
    texts = [token_texts(each.tokenizer) for each in (gpt2_preprocessor(), word_piece_preprocessor())]
    following = y, np.roll(x["teacher_token_ids"], -1, axis=1)
    spans = [np.asarray(x[name]) for name in ("student_spans", "teacher_spans")]

    def groups(row):
        """Return the texts of the tokens of each span."""
        numbers = range(spans[0][row].max() + 1)
        return [
            tuple(
                b"|".join(of[int(token)] for token in np.asarray(tokens[row])[side[row] == number])
                for of, tokens, side in zip(texts, following, spans)
            )
            for number in numbers
        ]

    end, ab = (b"\x00", b"\x00"), (b" |ab", b" a|b")
    assert groups(0) == [(b"c|ab", b" cab"), (b" |ab", b" a|b"), (b"b", b"b"), (b"a", b"a"), end]
    # The byte-pair tokenizer has no comma, the other one no "zz".
    assert groups(1) == [(b"b|a|d", b" bad")]
    assert groups(2) == [(b"a", b" a")]
    # The window of the byte-pair tokenizer ends inside of the fifth word, the other one before it.
    assert groups(3) == [(b"ab", b" a|b"), ab, ab]
    assert groups(4) == [(b"c|ab", b" cab"), end]
    for side in spans:
        assert set(side[4]) == {-1, 0, 1} and side[4][0] == -1


def test_the_first_token_of_a_window_is_not_predicted():
    """Without a start token, each token of a full window but the first is a span."""
    preprocessors = [gpt2_preprocessor(length, add_start_token=False, add_end_token=False) for length in (12, 12)]
    x, _, _ = align_texts(*preprocessors)(["cdefghijklmnopq"])
    for name in ("student_spans", "teacher_spans"):
        np.testing.assert_array_equal(x[name], [np.arange(12)])


def test_teacher_inputs_are_those_of_the_teachers_preprocessor():
    x, _, _ = align_texts(gpt2_preprocessor(12), word_piece_preprocessor(9))(["bad"])
    inputs = teacher_inputs(x)
    np.testing.assert_array_equal(inputs["token_ids"], [[2, 10, 3, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(inputs["padding_mask"], [[True, True, True, *[False] * 6]])


def test_a_dataset_of_single_texts():
    prepared = align_texts(gpt2_preprocessor(12), word_piece_preprocessor(9))
    (batched,) = tf.data.Dataset.from_tensor_slices(["bad", "a cab"]).map(prepared).batch(2)
    for one, other in zip(tf.nest.flatten(batched), tf.nest.flatten(prepared(["bad", "a cab"])), strict=True):
        np.testing.assert_array_equal(one, other)
