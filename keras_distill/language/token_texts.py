"""Texts of the tokens of KerasHub's tokenizers, as bytes."""

import re
from typing import Any

# Text of the end token: no text contains it.
END_TEXT = b"\x00"
_SENTENCE_PIECE_SPACE, _BYTE_FALLBACK = "\u2581", re.compile("<0x([0-9A-F]{2})>")


def token_texts(tokenizer: Any) -> dict[int, bytes | None]:
    """Return the text of each token, `{word index: bytes}`.

    Args:
        tokenizer: `keras_hub.tokenizers.BytePairTokenizer`, `SentencePieceTokenizer`, `WordPieceTokenizer`, or a
            subclass, such as the tokenizer of a model.

    Returns:
        A space before a word is a part of its token. The words of a WordPiece vocabulary get one if they begin with a
        letter or a digit. Special tokens have no text, except `END_TEXT` for the end token, and the unknown word of
        WordPiece has None.

    Raises:
        ValueError: For another tokenizer.
    """
    text_of = _text_of(tokenizer)
    vocabulary = list(tokenizer.get_vocabulary())
    # A vocabulary with a dictionary need not be in the order of the indices.
    indices = getattr(tokenizer, "vocabulary", None)
    indices = indices if isinstance(indices, dict) else {token: index for index, token in enumerate(vocabulary)}
    texts = {int(indices[token]): text_of(token) for token in vocabulary}
    special = getattr(tokenizer, "special_token_ids", ())
    end = getattr(tokenizer, "end_token_id", None)
    return texts | {int(index): b"" for index in special} | ({} if end is None else {int(end): END_TEXT})


def shared_words(student_tokenizer: Any, teacher_tokenizer: Any) -> list[tuple[int, int]]:
    """Return the words that two vocabularies share, for `HybridLogitDistillation(shared)`.

    Two tokens are the same word if they stand for the same text, with the space before it. The end tokens are a pair;
    other special tokens are left out.

    Args:
        student_tokenizer: Tokenizer of KerasHub: byte-pair, SentencePiece or WordPiece.
        teacher_tokenizer: The same of the teacher.

    Returns:
        Pairs `(student index, teacher index)`, in the order of the student's indices.

    Raises:
        ValueError: For another tokenizer.

    Example:

    >>> def term(student_preprocessor, teacher_preprocessor):
    ...     shared = shared_words(student_preprocessor.tokenizer, teacher_preprocessor.tokenizer)
    ...     return Term(SpanAligned(HybridLogitDistillation(shared)), over="tokens")
    """
    student, teacher = (token_texts(tokenizer) for tokenizer in (student_tokenizer, teacher_tokenizer))
    # The first index of a text that several tokens have.
    first = {text: index for index, text in sorted(teacher.items(), reverse=True) if text}
    pairs, used = [], set()
    for index, text in sorted(student.items()):
        if text in first and text not in used:
            used.add(text)
            pairs.append((index, first[text]))
    return pairs


def _text_of(tokenizer):
    """Return the function from a token to its text."""
    # Not imported with the package: KerasHub is optional.
    try:
        from keras_hub import tokenizers
    except ImportError:
        tokenizers = None
    if tokenizers is not None and isinstance(tokenizer, tokenizers.BytePairTokenizer):
        byte_of = _bytes_of_characters()
        return lambda token: b"".join(byte_of.get(character, character.encode()) for character in token)
    if tokenizers is not None and isinstance(tokenizer, tokenizers.SentencePieceTokenizer):
        return _sentence_piece
    if tokenizers is not None and isinstance(tokenizer, tokenizers.WordPieceTokenizer):
        return lambda token: _word_piece(token, tokenizer)
    raise ValueError(
        "The tokenizer must be a BytePairTokenizer, a SentencePieceTokenizer or a WordPieceTokenizer of keras_hub, so "
        f"that the text of each token is known. Received: {tokenizer!r}"
    )


def _bytes_of_characters():
    """Return `{character: byte}` of byte-pair vocabularies, in which every byte is a printable character (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]
    return {character: bytes([byte]) for character, byte in zip(characters, [*printable, *others])}


def _sentence_piece(token):
    fallback = _BYTE_FALLBACK.fullmatch(token)
    return bytes([int(fallback[1], 16)]) if fallback else token.replace(_SENTENCE_PIECE_SPACE, " ").encode()


def _word_piece(token, tokenizer):
    if token == tokenizer.oov_token:
        return None
    suffix = tokenizer.suffix_indicator
    if token.startswith(suffix) and token != suffix:
        return token[len(suffix) :].encode()
    return (f" {token}" if token[:1].isalnum() else token).encode()
