"""Causal language models: completions as training examples, texts that models write, and different tokenizers.

`completions` turns prompts and responses into examples for `fit`. `Rollouts` makes a `Distiller` train on texts that
the student or the teacher writes during training. `generate_texts` stores the teacher's responses to prompts.
`align_texts` and `SpanAligned` compare models whose tokenizers split texts in different places.
"""

from keras_distill.language.alignment import align_texts, teacher_inputs
from keras_distill.language.generation import generate_texts, read_texts
from keras_distill.language.packing import completions
from keras_distill.language.rollouts import Rollouts
from keras_distill.language.span_aligned import SpanAligned
from keras_distill.language.token_texts import shared_words

__all__ = [
    "Rollouts",
    "SpanAligned",
    "align_texts",
    "completions",
    "generate_texts",
    "read_texts",
    "shared_words",
    "teacher_inputs",
]
