"""Benchmark of time and memory of a loss over texts of 128 tokens and a large vocabulary: chunked against unchunked.

Run:    python -m tests.benchmarks.large_vocabulary [--xla] [--repeats=9] [--tokens=64] [--texts=8] [--words=32000]
Prints: a table, and the two ratios as JSON in the last line.

A step is a forward and a backward pass of `KLDivergence` from hidden states of size 256, including the logits of both
networks. Times are medians of steps that run in turn in one process. Memory is the peak of a process that runs a single
step, minus its memory before the step.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import keras
import tensorflow as tf

from keras_distill.data.batch import Batch
from keras_distill.losses import Chunked, KLDivergence
from keras_distill.teachers import ModelTeacher

TEXTS, LENGTH, WORDS, HIDDEN = 8, 128, 32_000, 256
PATHS = ("plain", "chunked")


def model(name, words):
    """Return the last layer of a language model."""
    layer = keras.layers.Dense(words, kernel_initializer="glorot_normal", name="logits")
    return keras.Sequential([keras.Input((LENGTH, HIDDEN)), layer], name=name)


def compiled_steps(tokens, xla, words=WORDS, texts=TEXTS):
    """Return `{path: function without arguments}`; each function returns the loss and its gradients."""
    keras.utils.set_random_seed(0)
    student, teacher, loss = model("student", words), model("teacher", words), KLDivergence(2.0)
    chunked = Chunked(loss, "logits", "logits", tokens=tokens)
    chunked.connect(student, ModelTeacher(teacher))
    chunked.build(*[(None, LENGTH, HIDDEN)] * 2)
    values = {
        "plain": lambda hidden, target: loss.compare(student(hidden), teacher(target), Batch(None)),
        # As a term of a training step: the weights of the examples are known.
        "chunked": lambda hidden, target: chunked.compare(hidden, target, Batch(None, example_weight=1.0)),
    }
    hidden, target = (tf.random.stateless_normal((texts, LENGTH, HIDDEN), (0, seed)) for seed in range(2))
    weights = [weight.value for weight in student.trainable_weights]

    def step(path):
        @tf.function(jit_compile=xla)
        def gradients(hidden, target):
            with tf.GradientTape() as tape:
                tape.watch(hidden)
                mean = tf.reduce_mean(values[path](hidden, target))
            return mean, tape.gradient(mean, [hidden, *weights])

        traced = gradients.get_concrete_function(hidden, target)
        return lambda: traced(hidden, target)

    return {path: step(path) for path in PATHS}


def times(steps, repeats):
    """Return `{path: median seconds}` of steps in turn, after a warm-up step that checks that both are equal."""
    results = {path: [part.numpy() for part in tf.nest.flatten(step())] for path, step in steps.items()}
    for one, other in zip(results["plain"], results["chunked"], strict=True):
        assert abs(one - other).max() <= 1e-5 * abs(one).max()
    del results
    seconds = {path: [] for path in steps}
    for _ in range(repeats):
        for path, step in steps.items():
            start = time.perf_counter()
            step()[0].numpy()
            seconds[path].append(time.perf_counter() - start)
    return {path: statistics.median(values) for path, values in seconds.items()}


def peak_of_a_step(step):
    """Return the peak memory of a step in bytes, minus the memory of the process before it."""
    # Reset the peak, to exclude the memory of tracing.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()[0].numpy()
    return _status("VmHWM") - before


def _status(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _memory(path, arguments):
    command = [sys.executable, "-m", "tests.benchmarks.large_vocabulary", *arguments, f"--memory={path}"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="number of steps of each; the median is reported")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per chunk")
    parser.add_argument("--texts", type=int, default=TEXTS, help="number of texts of a step")
    parser.add_argument("--words", type=int, default=WORDS, help="size of the vocabulary")
    parser.add_argument("--xla", action="store_true", help="compile with XLA")
    parser.add_argument("--memory", choices=PATHS, help="measure only the memory of this path, in this process")
    options = parser.parse_args()
    arguments = options.tokens, options.xla, options.words, options.texts
    if options.memory:
        print(peak_of_a_step(compiled_steps(*arguments)[options.memory]))
        return
    # Measure memory first, while this process is small, so that both measurements have the same free memory.
    memory = {path: _memory(path, sys.argv[1:]) for path in PATHS}
    seconds = times(compiled_steps(*arguments), options.repeats)
    print(f"{'':8}  {'seconds':>8}  {'peak MB':>8}")
    for path in PATHS:
        print(f"{path:8}  {seconds[path]:8.2f}  {memory[path] / 1e6:8.0f}")
    ratios = {
        f"{name}_ratio": round(values["chunked"] / values["plain"], 3)
        for name, values in (("memory", memory), ("time", seconds))
    }
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
