"""Film reviews: a language model of a few blocks, cut out of SmolLM2 and trained with and without its teacher.

The vocabulary is trimmed to the tokens of the reviews. The student keeps the blocks that change their inputs most, with
the teacher's weights; all arms start from this copy. The distilled student learns the 32 most probable tokens of the
teacher at each position, which are computed once, and the probability of all others together.

Run:    python -m recipes.smollm2_student --originals=FOLDER --seeds=10
        after the installations that recipes/smollm2.py names. FOLDER contains movieReviewSnippets_GroundTruth.txt,
        which is part of the sources of vaderSentiment.
Result: perplexity on 100 test sequences of 32 tokens, mean and sample standard deviation over 10 seeds, and the
        fraction of tokens for which student and teacher predict the same one:

            teacher      184
            labels only  554 +- 44   20.0 +- 0.4 %
            distilled    503 +- 14   22.2 +- 0.3 %

        The distilled student's perplexity is 51 lower (24 to 77; paired t-test p = 0.002), and it reads a sequence 4.6
        times as fast as the teacher. No setting was tried out. 9,600 training tokens are far too few for a useful
        model; the recipe shows the difference that a teacher makes.

        Three of the distilled students are trained for another epoch by the reverse KL divergence alone. As draft
        models of speculative decoding they become better, as language models worse, and texts that they write
        themselves have no advantage over given ones for the former: acceptance of a token, tokens accepted of 4, and
        perplexity

            before training  0.121          0.142          6562
            distilled        0.289          0.414           502
            given texts      0.346          0.546          1331
            own texts        0.346          0.545          1232

        Given texts raise the acceptance by 0.057 (0.056 to 0.059); own texts change it by -0.001 (-0.004 to 0.002) and
        the perplexity by -100 (-181 to -18).
Time:   45 minutes for 10 seeds, on a core of an AMD EPYC that other processes shared, and 30 minutes of processor time
        for the draft models; up to 14 GB of memory
References:
    Men et al., 2024, https://arxiv.org/abs/2403.03853 (ShortGPT: block influence)
    Muralidharan et al., NeurIPS 2024, https://arxiv.org/abs/2407.14679 (Minitron: pruning and distillation)
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
from absl import flags

from keras_distill import Distiller, Term
from keras_distill.cache import label
from keras_distill.compression import measure_importance, shrink, trim_vocabulary
from keras_distill.experiment import Arm, Experiment, LanguageModeling, Results, compare
from keras_distill.language import Rollouts
from keras_distill.losses import ReverseKL, TopK
from keras_distill.metrics import Acceptance, AcceptedLength, Agreement, Perplexity

from . import common, data, smollm2

BLOCKS = flags.DEFINE_integer("blocks", 6, "Number of blocks of the student.", lower_bound=1)
SEQUENCES = flags.DEFINE_integer(
    "sequences", 300, "Number of training sequences; a third as many are evaluated.", lower_bound=3
)
LENGTH = flags.DEFINE_integer("length", 32, "Number of tokens of a sequence.", lower_bound=2)
TOP_K = flags.DEFINE_integer("top_k", 32, "Number of the teacher's tokens that are cached per position.", lower_bound=1)
ON_POLICY_SEEDS = flags.DEFINE_integer(
    "on_policy_seeds",
    3,
    "Number of seeds whose distilled student is also trained on texts that it writes.",
    lower_bound=0,
)

common.defaults(temperature=1.0, alpha=0.5, epochs=2, seeds=5, batch_size=16, learning_rate=3e-4)


class Setup(NamedTuple):
    """Models and sequences of all arms.

    Attributes:
        teacher: Language model of the trimmed vocabulary.
        start: Function that returns the student before training.
        arrays: Sequences as inputs, the next tokens as labels.
    """

    teacher: keras.Model
    start: Callable[[], keras.Model]
    arrays: data.Arrays


def sequences(texts: Sequence[Sequence[int]], separator: int, count: int) -> np.ndarray:
    """Return tokens of texts one after the other, each after a separator, cut into sequences with one token more."""
    tokens = np.concatenate([[separator, *text] for text in texts])
    size = LENGTH.value + 1
    count = min(count, len(tokens) // size)
    return tokens[: count * size].reshape(count, size)


def inputs_and_labels(tokens: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    inputs = tokens[:, :-1].astype("int32")
    return {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}, tokens[:, 1:].astype("int32")


def from_scratch(texts: Sequence[str]) -> tuple[smollm2.TiedLlama, Callable[[Any], list[list[int]]], int]:
    """Return an untrained small network, a function from texts to words, and the separator, for a smoke test."""
    words = {word: index for index, word in enumerate(sorted({word for text in texts for word in text.split()}), 1)}
    sizes = {"num_layers": BLOCKS.value + 2, "hidden_dim": 16, "intermediate_dim": 32}
    heads = {"num_query_heads": 2, "num_key_value_heads": 1}
    backbone = smollm2.TiedLlama(vocabulary_size=len(words) + 3, **sizes, **heads, name="backbone")
    return backbone, lambda texts: [[words[word] for word in text.split()] for text in texts], 0


def setup() -> Setup:
    """Return teacher, student and sequences."""
    snippets = data.movie_snippets()
    texts = [list(split[0]) for split in (snippets.train, snippets.test)]
    if common.SMOKE.value:
        backbone, tokenize, separator = from_scratch([text for split in texts for text in split])
    else:
        backbone, tokenizer, separator = smollm2.load(smollm2.path())

        def tokenize(split):
            return [np.asarray(tokens).tolist() for tokens in tokenizer(split)]

    counts = SEQUENCES.value, -(-SEQUENCES.value // 3)
    splits = [sequences(tokenize(split), separator, count) for split, count in zip(texts, counts)]
    # The words of both splits are kept, so that no token is unknown.
    words = np.unique(np.concatenate([split.ravel() for split in splits]))
    backbone, ids = trim_vocabulary(backbone, words)
    train, test = (inputs_and_labels(ids[split]) for split in splits)
    importance = measure_importance(backbone, data.rows(train[0], slice(64)))

    def start():
        depth = BLOCKS.value / backbone.num_layers
        return causal_model(shrink(backbone, depth=depth, copy=True, importance=importance), "student")

    return Setup(causal_model(backbone, "teacher"), start, data.Arrays(train, test))


def causal_model(backbone: keras.Model, name: str) -> keras.Model:
    return keras_hub.models.Llama3CausalLM(backbone, name=name)


def arms(start: Callable[[], keras.Model]) -> list[Arm]:
    baseline = Arm("labels only", start, **common.training())
    temperature, alpha = common.TEMPERATURE.value, common.ALPHA.value
    terms = [Term(TopK(TOP_K.value, temperature), weight=1 - alpha, over="tokens")]
    return [baseline, dataclasses.replace(baseline, name="distilled", terms=terms, supervised_weight=alpha)]


def speed(model: keras.Model, inputs: dict[str, np.ndarray]) -> float:
    """Return the number of tokens that a model reads per second."""
    predict = functools.partial(model.predict, inputs, batch_size=common.BATCH_SIZE.value, verbose=0)
    predict()
    begin = time.perf_counter()
    predict()
    return inputs["token_ids"].size / (time.perf_counter() - begin)


def draft_quality(student: keras.Model, teacher: keras.Model, inputs: Any, labels: Any) -> dict[str, float]:
    """Return metrics of the student as a draft model of its teacher."""
    distiller = Distiller(student=student, teacher=teacher, supervised_weight=1.0)
    metrics = [Perplexity(), Agreement(), Acceptance(), AcceptedLength(k=4)]
    distiller.compile("adam", LanguageModeling().loss(student), metrics=metrics)
    return distiller.evaluate(inputs, labels, batch_size=common.BATCH_SIZE.value, return_dict=True, verbose=0)


def print_quality(name: str, measured: dict[str, float]) -> None:
    names = "perplexity", "agreement", "acceptance", "accepted_length"
    print(f"{name:32}" + "  ".join(f"{name} {measured[name]:.4g}" for name in names), flush=True)


def continue_on_policy(results: Results, teacher: keras.Model, arrays: data.Arrays) -> None:
    """Train distilled students for one more epoch, on given texts and on texts they write; print the differences.

    The teacher scores each token of the second half of a sequence, by the reverse KL divergence. The student writes
    this half itself in one arm.
    """
    (distilled,) = [model for model in results.models if model.name == "distilled"]
    measured: dict[str, list[dict[str, float]]] = {"distilled": [], "given texts": [], "own texts": []}
    for run in distilled.runs[: ON_POLICY_SEEDS.value]:
        for name, qualities in measured.items():
            student = keras.saving.load_model(common.folder() / run.file, compile=False)
            if name != "distilled":
                train_by_reverse_kl(student, teacher, arrays.train, run.seed, own_texts=name == "own texts")
            qualities.append(draft_quality(student, teacher, *arrays.test))
            print_quality(f"{name}, seed {run.seed}", qualities[-1])
    if ON_POLICY_SEEDS.value < 2:
        return
    for metric in ("perplexity", "acceptance"):
        scores = {name: [each[metric] for each in qualities] for name, qualities in measured.items()}
        for name, other in (("given texts", "distilled"), ("own texts", "given texts")):
            comparison = compare(name, scores[name], other, scores[other])
            low, high = comparison.interval
            print(f"{metric}, {name} - {other}: {comparison.difference:+.3g} ({low:+.3g} to {high:+.3g})")


def train_by_reverse_kl(student: keras.Model, teacher: keras.Model, train: Any, seed: int, own_texts: bool) -> None:
    keras.utils.set_random_seed(seed)
    inputs, labels = train
    weights = np.zeros(labels.shape, "float32")
    weights[:, labels.shape[1] // 2 :] = 1
    rollouts = Rollouts(max_length=labels.shape[1], stop_token_ids=[], seed=seed) if own_texts else None
    terms = [Term(ReverseKL(temperature=1.0), over="tokens")]
    distiller = Distiller(student=student, teacher=teacher, terms=terms, supervised_weight=0.0, rollouts=rollouts)
    # The labels count with the weight 0; they are passed for the weights of the positions.
    distiller.compile(keras.optimizers.Adam(common.LEARNING_RATE.value / 3), LanguageModeling().loss(student))
    distiller.fit(inputs, labels, sample_weight=weights, batch_size=common.BATCH_SIZE.value, verbose=0)


def recipe() -> None:
    teacher, start, arrays = setup()
    folder = common.folder()
    cache = folder / "top_k"
    if common.TEACHER.value == "cached":
        label(teacher, common.as_data(arrays).train.whole(), cache, top_k=TOP_K.value, batch_size=32)
    experiment = Experiment(
        LanguageModeling(),
        common.as_data(arrays),
        teacher,
        arms(start),
        title="Film reviews: a student cut out of SmolLM2",
        description=f"The {BLOCKS.value} most influential blocks of a language model are trained to predict the next "
        "token of film reviews, from labels alone and with the teacher's probabilities.",
        keep="distilled",
        **(common.options() | {"cache": cache if common.TEACHER.value == "cached" else False}),
    )
    results = experiment.run(folder)
    inputs, _ = arrays.test
    for model in (teacher, start()):
        print(f"{model.name}: {speed(model, inputs):.0f} tokens per second")
    print("\nAs a draft model of the teacher, on the test sequences:")
    print_quality("before training", draft_quality(start(), teacher, *arrays.test))
    continue_on_policy(results, teacher, arrays)


if __name__ == "__main__":
    common.run(recipe)
