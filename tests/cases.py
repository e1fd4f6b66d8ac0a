"""Inputs that once failed: one line for each, with the tests that hold it.

    python -m tests.cases [ID ...]

Tests name their case by `@pytest.mark.case("A1")`. The exit status is 1 if a case fails or has no test.
"""

import argparse
import collections
import pathlib
import sys

import pytest

CASES = {
    "A1": "a student that overrides compute_loss or train_step",
    "A2": "a detector of KerasHub, with boxes as labels",
    "A3": "a student compiled with a loss, the distiller without",
    "A4": "targets of -1 that are values; class numbers as floats",
    "A5": "losses of one value per image on labels with positions",
    "A6": "labels in dictionaries, lists and tuples",
    "A7": "labels without the last axis of length 1",
    "A8": "metrics that return a scalar or one value per image",
    "A9": "class weights with missing labels in a dataset",
    "A10": "one NaN among the components of a label",
    "A11": "a loss, but no labels",
    "A12": "a term with the log name of an output's loss",
    "A13": "weights that become trainable after compile",
    "A14": "metrics that layers own",
    "A15": "loading in a custom object scope; a subclass of Distiller",
    "A16": "a loss with ignore_class",
    "A17": "MeanIoU without warnings",
    "B1": "weights of pixels and a term at another resolution",
    "B2": "weights of masked positions and hidden states",
    "B3": "weights of decoder tokens and encoder states",
    "B4": "a student that takes some of the batch's inputs",
    "B5": "images of any size",
    "B6": "logits of another resolution",
    "B7": "videos and series with head='auto'",
    "B8": "preprocessing and frozen layers in both models",
    "B9": "teachers that are functions of NumPy",
    "B10": "a loss of an inner tap that needs all labels",
    "B11": "random augmentation that only the student has",
    "B12": "a model with a preprocessor",
    "C1": "the order of keras.distillation.Distiller",
    "C2": "models that end in a softmax",
    "C3": "Keras losses, names and functions as terms",
    "C4": "schedules and losses of one name",
    "C5": "a long error on the command line",
    "C6": "a report without a test set",
    "C7": "a report of a worse student",
    "C8": "README's two commands in one clone",
    "C9": "two latencies of one architecture",
    "C10": "class names from the transform graph",
    "C11": "mistyped commands and options",
    "C12": "served models without the label's column",
    "D1": "a map of many classes",
    "D2": "copy_weights between KerasHub tasks",
    "D3": "copy_weights of rotary and grouped attention",
    "D4": "a mean over tokens",
    "D5": "a mask over positions that are classes",
    "D6": "HiddenStates of a KerasHub task",
    "D7": "blocks of a language model that are left out",
    "D8": "int8 export of recurrent layers",
    "E1": "booleans and unsigned integers as labels",
    "E2": "non-finite numbers stop a run",
    "E3": "numbers beyond the stored dtype",
    "E4": "files of the current folder are not imported",
    "E5": "a manifest that names files outside of the cache",
    "E6": "a manifest that does not fit its files",
    "E7": "two processes in one folder",
    "E8": "logits of -inf",
    "E9": "a cache on a read-only file system",
    "E10": "more shards than file descriptors",
    "E11": "invalid labels on the command line",
    "E12": "a corrupt picture",
    "E13": "a full disk",
    "E14": "arguments that were ignored",
    "E15": "sample weights that are negative, zero or NaN",
    "E16": "data that are neither prepared nor reachable",
    "F1": "validation data without activations",
    "F2": "views that are not repeatable",
    "F3": "cached probabilities",
    "F4": "ONNX export of gelu",
    "F5": "a term of weight 0",
    "F6": "the supervised loss on two replicas",
}


class Outcomes:
    """Pytest plugin that collects the outcomes of the tests of each case."""

    def __init__(self):
        self.tests = collections.defaultdict(list)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            for name, case in report.user_properties:
                if name == "case":
                    self.tests[case].append(report.outcome)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description=__doc__.splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="cases to run, such as A1; all by default")
    chosen = parser.parse_args(arguments).ids or list(CASES)
    unknown = sorted(set(chosen) - set(CASES))
    if unknown:
        parser.error(f"unknown cases {unknown}; the last one is {list(CASES)[-1]}")
    root = pathlib.Path(__file__).parent.parent
    outcomes = Outcomes()
    options = ["-q", "--tb=no", "--no-header", "--no-summary", "-p", "no:cacheprovider", f"--rootdir={root}"]
    pytest.main([*options, "-m", "case", f"--cases={','.join(chosen)}", str(root / "tests")], plugins=[outcomes])
    print()
    failed = False
    for case in chosen:
        tests = outcomes.tests[case]
        status = "FAILED" if "failed" in tests else "passed" if "passed" in tests else "NO TEST"
        failed |= status != "passed"
        print(f"{case:4} {status:8} {len(tests):3} tests  {CASES[case]}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
