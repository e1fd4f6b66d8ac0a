"""Causal language models: completions as training examples, and texts that models write.

`completions` turns prompts and responses into examples for `fit`. `Rollouts` makes a `Distiller` train on texts that
the student or the teacher writes during training. `generate_texts` stores the teacher's responses to prompts.
"""

from keras_distill.language.generation import generate_texts, read_texts
from keras_distill.language.packing import completions
from keras_distill.language.rollouts import Rollouts

__all__ = ["Rollouts", "completions", "generate_texts", "read_texts"]
