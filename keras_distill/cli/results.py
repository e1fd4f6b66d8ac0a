"""Evaluation of the models of `distill`, and the files of its results."""

import argparse
import csv
import io
import json
import pathlib
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_distill.cache import fingerprint
from keras_distill.models.softmax import logits_model
from keras_distill.preflight import Finding
from keras_distill.report import ModelResult, Results, Run, evaluation
from keras_distill.utils.files import atomic_write
from keras_distill.utils.formatting import format_percent

from .training import BASELINE, DISTILLED, Trained

if TYPE_CHECKING:
    import keras

    from .data import Data
    from .job import DistillationJob

TEACHER = "teacher"
_MODEL_FILES = {DISTILLED: "student.keras", BASELINE: "baseline.keras"}
_HISTORY_FILES = {DISTILLED: "history.csv", BASELINE: "history_baseline.csv"}
_PAGE, _NUMBERS = "report.html", "results.json"
FILES = (*_MODEL_FILES.values(), *_HISTORY_FILES.values(), _PAGE, _NUMBERS)
_RECORDED = ("dataset", "split", "feature", "scale", "validation", "temperature", "alpha", "batch_size", "epochs")
_RECORDED += ("optimizer", "learning_rate", "seed", "baseline")


def run_settings(options: argparse.Namespace, job: "DistillationJob") -> dict[str, Any]:
    """Return `{name: value}` of all that the trained weights depend on."""
    return {
        "teacher": fingerprint.of_weights(job.teacher.weights),
        "student": fingerprint.of_weights(job.student.weights),
        **{name: getattr(options, name) for name in _RECORDED},
        "features": [f"{each.loss} {each.student}:{each.teacher}:{each.weight:g}" for each in options.features],
        "cached": options.cache is not None,
    }


def previous_results(directory: pathlib.Path, settings: dict[str, Any]) -> Results | None:
    """Return the results of a finished run with the same settings, or None.

    Args:
        directory: Value of `--out`.
        settings: Returned by `run_settings`.
    """
    try:
        results = Results.load(directory / _NUMBERS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return results if results.settings == json.loads(json.dumps(settings)) else None


def print_results(results: Results) -> None:
    """Print a table of the results and sentences that interpret it."""
    print("\n".join(["", results.text(), "", results.description, *results.verdict(), ""]))


class Evaluator:
    """Evaluation of the teacher and the student, before and after training, on the validation examples.

    Make it before training begins: it evaluates the initial student.

    Args:
        options: Options of the command.
        job: Models and terms.
        data: The examples.
        settings: Returned by `run_settings`.

    Raises:
        CommandError: If no validation example has a label, or labels are out of range.
    """

    def __init__(self, options: argparse.Namespace, job: "DistillationJob", data: "Data", settings: dict[str, Any]):
        self._options = options
        self._job = job
        self._settings = settings
        self._directory = pathlib.Path(options.out)
        self._started = time.time()
        self._inputs, labels = data.validation_arrays()
        self._teacher_logits = self._predict(job.teacher)
        self._has_labels = labels is not None
        # Without labels the teacher's predictions are the reference.
        self._labels = labels if self._has_labels else self._teacher_logits.argmax(-1)
        self._initial_accuracy = self._evaluate(self._predict(job.student)).accuracy

    def results(self, trained: dict[str, Trained], findings: list[Finding]) -> Results:
        """Evaluate trained models, write all files of the results and return the results.

        Args:
            trained: Returned by `Training.run`.
            findings: Findings of the pre-flight diagnostics.
        """
        models = {TEACHER: self._job.teacher} | {name: each.model for name, each in trained.items()}
        times = evaluation.prediction_milliseconds(models, self._inputs)
        runs = {TEACHER: self._evaluate(self._teacher_logits)}
        # The baseline comes before the distilled student, as in all reports.
        for name in reversed(list(trained)):
            runs[name] = self._evaluate(self._predict(trained[name].model), trained[name].history)
        findings = [*self._accuracy_loss(runs[DISTILLED].accuracy), *findings]
        results = Results(
            title=f"Distillation of '{self._job.teacher.name}' into '{self._job.student.name}'",
            description=self._describe(runs[TEACHER].accuracy, runs[DISTILLED].accuracy),
            settings=self._settings,
            classes=[str(number) for number in range(self._job.classes)],
            # Each name is also the role.
            models=[
                ModelResult(name, name, models[name].count_params(), [run], times[name]) for name, run in runs.items()
            ],
            temperature=self._options.temperature,
            command=shlex.join(self._options.command),
            seconds=time.time() - self._started,
            seeds=[self._options.seed],
            examples=evaluation.least_confident_examples(models, self._inputs, self._labels),
            findings={DISTILLED: findings},
        )
        self._write(results, trained)
        return results

    def _accuracy_loss(self, accuracy: float) -> list[Finding]:
        """Return a finding, and print it as a warning, if the student is less accurate than before training."""
        if accuracy >= self._initial_accuracy:
            return []
        what = "The student is less accurate than before training."
        seen = f"{format_percent(accuracy, 2)} after training, {format_percent(self._initial_accuracy, 2)} before."
        advice = "Take a teacher that is more accurate than the student, or lower --learning-rate."
        print(f"keras-distill: warning: {what} {seen} {advice}", file=sys.stderr)
        return [Finding("accuracy lost", what, seen, advice)]

    def _predict(self, model: "keras.Model") -> np.ndarray:
        return logits_model(model).predict(self._inputs, batch_size=self._options.batch_size, verbose=0)

    def _evaluate(self, logits: np.ndarray, history: dict[str, list[float]] | None = None) -> Run:
        return evaluation.evaluate_predictions(logits, self._labels, self._options.seed, history or {})

    def _describe(self, teacher: float, student: float) -> str:
        initial, count = f"{format_percent(self._initial_accuracy, 2)} before training", len(self._labels)
        if self._has_labels:
            return (
                f"Accuracy on {count:,} validation examples: teacher {format_percent(teacher, 2)}, student "
                f"{format_percent(student, 2)} ({initial})."
            )
        return (
            f"The dataset has no labels. The student predicts the teacher's class for {format_percent(student, 2)} of "
            f"{count:,} validation examples ({initial})."
        )

    def _write(self, results: Results, trained: dict[str, Trained]) -> None:
        for name, each in trained.items():
            self._job.save(each.model, self._directory / _MODEL_FILES[name])
            with atomic_write(self._directory / _HISTORY_FILES[name]) as file:
                file.write(_csv(each.history).encode())
        try:
            from keras_distill.report import write_page

            write_page(results, self._directory / _PAGE)
        except ImportError as error:
            remedy = f"Then run: keras-distill report {shlex.quote(str(self._directory))}"
            print(f"keras-distill: warning: {_PAGE} was not written: {error} {remedy}", file=sys.stderr)
        # Written last: its presence marks the run as finished.
        results.save(self._directory / _NUMBERS)


def _csv(history: dict[str, list[float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history])
    writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values()), 1))
    return text.getvalue()
