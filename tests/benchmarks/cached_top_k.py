"""Benchmark of the memory of a term with cached top-k logits of a large vocabulary: chunked against dense.

Run:    python -m tests.benchmarks.cached_top_k [--positions=1024] [--words=32000] [--paths=dense,chunked]
Prints: `{path: peak MB}` as JSON in the last line.

A step is a forward and a backward pass of a `Distiller`'s student and term: `Chunked(TopK(16))` of hidden states of
size 64 in chunks of 32 tokens, or `KLDivergence` of the logits of all words. Memory is the peak of a process that runs
a single step, minus its memory before the step.
"""

import argparse
import json
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_distill import Distiller, HiddenStates, Term
from keras_distill.data.batch import Batch
from keras_distill.losses import Chunked, KLDivergence, TopK
from keras_distill.teachers import CachedTeacher
from tests.benchmarks.large_vocabulary import peak_of_a_step

TEXTS, HIDDEN, STORED, TOKENS = 4, 64, 16, 32
PATHS = ("dense", "chunked")


def step_of(path, positions, words):
    """Return a function without arguments that computes the loss and the gradients of a step."""
    length = positions // TEXTS
    inputs = keras.Input((length, HIDDEN))
    student = keras.Model(inputs, keras.layers.Dense(words, name="logits")(keras.layers.Dense(HIDDEN)(inputs)))
    rng = np.random.default_rng(0)
    # Different classes in each row, without a permutation of all words.
    starts = rng.integers(0, words, (TEXTS, length, 1))
    stored = {
        "top": tf.constant(rng.normal(size=(TEXTS, length, STORED + 1)), "float32"),
        "classes": tf.constant((starts + 37 * np.arange(STORED)) % words, "int32"),
    }
    chunked = path == "chunked"
    distiller = Distiller(
        student=HiddenStates(student) if chunked else student,
        teacher=CachedTeacher({"output": stored}, counts={"output": words}),
        terms=[Term(Chunked(TopK(STORED), tokens=TOKENS) if chunked else KLDivergence(), over="tokens", name="kd")],
    )
    distiller.compile("sgd")

    @tf.function
    def step(x, stored):
        batch = Batch(x, cached={"output": stored})
        with tf.GradientTape() as tape:
            activations = distiller.student_activations(batch, training=True)
            losses = distiller.losses_of(batch, activations, distiller.teacher_activations(batch), training=True)
        return losses["kd_loss"], tape.gradient(losses["kd_loss"], [v.value for v in distiller.trainable_variables])

    x = tf.random.stateless_normal((TEXTS, length, HIDDEN), (0, 1))
    traced = step.get_concrete_function(x, stored)
    return lambda: traced(x, stored)


def megabytes(path, positions, words):
    """Return the peak memory of a step in MB, measured in a new process."""
    arguments = [f"--memory={path}", f"--positions={positions}", f"--words={words}"]
    command = [sys.executable, "-m", "tests.benchmarks.cached_top_k", *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1024, help="number of tokens of a step")
    parser.add_argument("--words", type=int, default=32_000, help="size of the vocabulary")
    parser.add_argument("--paths", default=",".join(PATHS), help="what is measured")
    parser.add_argument("--memory", choices=PATHS, help="measure only the memory of this path, in this process")
    options = parser.parse_args()
    if options.memory:
        print(peak_of_a_step(step_of(options.memory, options.positions, options.words)))
        return
    found = {path: round(megabytes(path, options.positions, options.words)) for path in options.paths.split(",")}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
