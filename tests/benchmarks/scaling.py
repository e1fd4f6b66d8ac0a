"""Growth of the time of a step with batch, terms, words and tokens, and of `label` with examples, as exponents.

An exponent of 1 is a cost that grows in proportion, 0 one that does not grow. The part `scale` of
`tests.benchmarks.overview` prints them.
"""

import numpy as np

from keras_distill import Distiller, Term
from keras_distill.losses import Hint, KLDivergence
from tests.benchmarks import large_vocabulary, step_time, timing

WORDS, TEXTS, EXAMPLES = (8_000, 16_000, 32_000), (1, 2, 4), (10_000, 40_000, 160_000)
BATCHES, TERMS = (256, 1024, 4096), (1, 4, 16)
WIDTH = 256


def figures(dense, arrays, labelling, medians, rounds):
    """Return `{name: exponent}`, and the operations and microseconds that one more term adds to a step.

    Args:
        dense: Function of a name and the widths of hidden layers; returns a network of 16 features.
        arrays: Function of a number of examples; returns features and labels.
        labelling: Function of a number of examples; returns `{"label": function that labels them}`.
        medians: Function of `{name: function}` and a title; returns `{name: median seconds}`.
        rounds: Number of timings of a step with logits in chunks.
    """

    def chunked(words, texts):
        steps = large_vocabulary.compiled_steps(64, False, words, texts)
        return large_vocabulary.times(steps, rounds)["chunked"]

    def distiller(terms):
        student, teacher = dense("student", WIDTH), dense("teacher", WIDTH, WIDTH)
        hints = [Term(Hint(), "hidden_0", "hidden_1", weight=0.1, name=f"hint_{n}") for n in range(terms)]
        return step_time.compiled(Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence()), *hints]))

    of_batches = medians({size: step_time.steps(distiller(1), arrays(size)) for size in BATCHES}, "scale: batches")
    models = {terms: distiller(terms) for terms in TERMS}
    of_terms = medians({n: step_time.steps(model, arrays(256)) for n, model in models.items()}, "scale: terms")
    added = np.diff([step_time.operations(models[n], arrays(256)) for n in TERMS]) / np.diff(TERMS)
    seconds_per_term = (of_terms[TERMS[-1]] - of_terms[TERMS[0]]) / (TERMS[-1] - TERMS[0]) / step_time.STEPS.value
    labels = [medians({"label": labelling(n)["label"]}, f"scale: label {n:,}")["label"] for n in EXAMPLES]
    return {
        "step_batch": timing.exponent(BATCHES, list(of_batches.values())),
        "operations_per_term_from_1_to_4": added[0],
        "operations_per_term_from_4_to_16": added[1],
        "us_per_term": 1e6 * seconds_per_term,
        "chunked_words": timing.exponent(WORDS, [chunked(words, 2) for words in WORDS]),
        "chunked_tokens": timing.exponent(TEXTS, [chunked(16_000, texts) for texts in TEXTS]),
        "label_examples": timing.exponent(EXAMPLES, labels),
    }
