"""Findings on the arms of an experiment, before and after training."""

import warnings
from collections.abc import Sequence

import tensorflow as tf

from keras_distill.experiment.evaluation import Evaluation, Evaluator
from keras_distill.preflight import Finding, check
from keras_distill.training.distiller import Distiller
from keras_distill.utils.formatting import count_noun


class Diagnostics:
    """Collects the findings of each arm, and warns of them.

    Attributes:
        findings: `{name of an arm: [Finding]}`.

    Args:
        strict: Whether findings of the pre-flight check raise an error.
    """

    def __init__(self, strict: bool):
        self.findings: dict[str, list[Finding]] = {}
        self._strict = strict
        self._initial: dict[str, Evaluation] = {}

    def restore(self, name: str, findings: Sequence[Finding]) -> None:
        """Set the findings of an arm that an earlier run trained.

        Args:
            name: Name of the arm.
            findings: Its findings.
        """
        self.findings[name] = list(findings)

    def check(self, name: str, distiller: Distiller, batches: tf.data.Dataset, initial: Evaluation) -> None:
        """Run the pre-flight check.

        Args:
            name: Name of the arm.
            distiller: Its compiled distiller.
            batches: Training batches.
            initial: `Evaluation` of the untrained student.

        Raises:
            RuntimeError: If there are findings and `strict` is set.
        """
        self.findings[name], self._initial[name] = [], initial
        self._add(name, check(distiller, batches))
        if self.findings[name] and self._strict:
            problems = count_noun(len(self.findings[name]), "problem")
            raise RuntimeError(f"Training did not start: {problems} of '{name}' found with `strict` set.")

    def compare_with_initial(self, name: str, evaluator: Evaluator, trained: Evaluation) -> None:
        """Add a finding if the first training of an arm has made its student clearly worse.

        Args:
            name: Name of the arm.
            evaluator: The `Evaluator`.
            trained: `Evaluation` of the trained student.
        """
        initial = self._initial.pop(name, None)
        if initial is None or not evaluator.clearly_worse(trained, initial):
            return
        score = evaluator.score
        what = f"'{name}' has a worse {score.name} than before training."
        seen = f"{score.text(trained.score)} after training, {score.text(initial.score)} before."
        advice = "Take a teacher that is better than the student, or lower the learning rate."
        self._add(name, [Finding("score lost", what, seen, advice)])

    def _add(self, name, findings):
        self.findings[name].extend(findings)
        for finding in findings:
            warnings.warn(f"'{name}': {finding.what} {finding.seen} {finding.advice}", stacklevel=2)
