"""New texts from given ones."""

import dataclasses
from typing import Any

import numpy as np

from keras_distill.data.augmentation import Augmentation
from keras_distill.data.mixtures import mixed_labels
from keras_distill.utils.arguments import check_number


@dataclasses.dataclass(frozen=True)
class WordDrop(Augmentation):
    """Texts in which random words are missing.

    Takes texts, whose words are separated by spaces, or token ids, shape `[examples, length]`, whose padding is 0.

    Args:
        probability: Probability that a word is left out, in (0, 1). 0.1 to 0.3 is typical. Defaults to 0.2.

    Raises:
        ValueError: If `probability` is out of (0, 1); when called, if inputs are neither texts nor token ids.

    Reference:
        Tang et al., 2019, https://arxiv.org/abs/1903.12136 (masked words)

    Example:

    >>> from keras_distill.data import WordDrop, augment
    >>> texts, _ = augment(WordDrop(), np.array(["a warm and funny film", "tedious from start to end"]), size=3)
    """

    probability: float = 0.2

    def __post_init__(self):
        check_number(self.probability, "probability", above=0, below=1)

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        def drop(words):
            kept = generator.random(len(words)) >= self.probability
            # One word remains.
            kept[generator.integers(len(words))] |= not kept.any()
            return words[kept]

        words = split_words(inputs, "WordDrop")
        return join_words([drop(each) if len(each) else each for each in words], inputs), labels


@dataclasses.dataclass(frozen=True)
class Recombination(Augmentation):
    """Texts made of the beginning of one text and the end of another.

    Takes texts or token ids, as `WordDrop` does. Labels are mixed in proportion to the words.

    Raises:
        ValueError: When called, if inputs are neither texts nor token ids.

    Example:

    >>> from keras_distill.data import Recombination, augment
    >>> texts, _ = augment(Recombination(), np.array(["a warm and funny film", "tedious from start to end"]), size=3)
    """

    mixes_labels = True

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        words = split_words(inputs, "Recombination")
        partner = generator.permutation(len(words))
        made, share = [], np.ones(len(words))
        for number, (first, second) in enumerate(zip(words, (words[other] for other in partner))):
            cut = generator.integers(1, len(first) + 1) if len(first) else 0
            rest = second[generator.integers(0, len(second)) :] if len(second) else second
            made.append(np.concatenate([first[:cut], rest]))
            share[number] = cut / max(cut + len(rest), 1)
        return join_words(made, inputs), mixed_labels(labels, partner, share, "Recombination")


def split_words(inputs: Any, name: str) -> list[np.ndarray]:
    """Return the words of each text, or its token ids without padding.

    Args:
        inputs: Texts, shape `[examples]` or `[examples, 1]`; or token ids, shape `[examples, length]`.
        name: Name of the augmentation.

    Raises:
        ValueError: If inputs are neither.
    """
    array = inputs if isinstance(inputs, np.ndarray) else np.zeros(0)
    if array.dtype.kind in "OUS" and array.size == len(array):
        texts = (text.decode() if isinstance(text, bytes) else str(text) for text in array.reshape(-1))
        return [np.array(text.split(), object) for text in texts]
    if array.dtype.kind in "iu" and array.ndim == 2:
        return [row[row != 0] for row in array]
    received = f"{array.dtype}, shape {array.shape}" if array is inputs else type(inputs).__name__
    raise ValueError(
        f"{name} takes texts, or token ids of shape [examples, length] whose padding is 0. Received: {received}. For "
        "models with other inputs, apply it to the texts and tokenize what it returns."
    )


def join_words(words: list[np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Return texts, or token ids padded or truncated to the length of the inputs.

    Args:
        words: Words of each text, or token ids.
        inputs: The inputs that they come from.
    """
    if inputs.dtype.kind in "iu":
        padded = np.zeros_like(inputs)
        for row, ids in zip(padded, words):
            row[: len(ids)] = ids[: len(row)]
        return padded
    texts = np.array([" ".join(each) for each in words], object).reshape(inputs.shape)
    return np.char.encode(texts.astype(str), "utf-8") if inputs.dtype.kind == "S" else texts.astype(str)
