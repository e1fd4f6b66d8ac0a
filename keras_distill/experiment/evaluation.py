"""Evaluation of trained models on one split."""

from typing import Any

import keras
import numpy as np

from keras_distill.experiment.model_result import Run
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import bootstrap
from keras_distill.experiment.task import Task


class Evaluator:
    """Evaluates the outputs of models on a split.

    The score is that of the labeled examples, the agreement with the teacher that of all examples. Without labels the
    teacher's predictions are the reference, and the score is the agreement.

    Attributes:
        score: `Score` of the task; its name is "agreement" without labels.
        num_examples: Number of labeled examples.
        labels: Labels of these examples.
        indices: Their indices in the split.

    Args:
        task: The `Task`.
        labels: Labels of the split; None without labels.
        teacher_outputs: Outputs of the teacher for all examples of the split, or None.

    Raises:
        ValueError: If no example has a label, or there are neither labels nor outputs of a teacher.
    """

    def __init__(self, task: Task, labels: Any, teacher_outputs: Any):
        self._task = task
        if labels is None and teacher_outputs is None:
            raise ValueError(
                "Without labels, the teacher's predictions are the reference, but its outputs are not those of the "
                "students. Pass labels."
            )
        self.score: Score = task.score
        if labels is None:
            labels = task.as_labels(teacher_outputs)
            self.score = Score(f"agreement ({task.score.name})", task.score.higher_is_better, task.score.percent)
        self.indices = np.flatnonzero(task.labeled(labels))
        if not len(self.indices):
            raise ValueError("No example of the evaluation split has a label. Choose another split.")
        self.labels = self._labeled(labels)
        self.num_examples = len(self.indices)
        self._teacher_outputs = teacher_outputs

    def records(self, outputs: Any) -> Any:
        """Return `Task.records` of a model's outputs.

        Args:
            outputs: Outputs for all examples of the split.
        """
        return self._task.records(self._labeled(outputs), self.labels)

    def run(self, seed: int, outputs: Any, history: dict[str, list[float]]) -> Run:
        """Return the `Run` of a trained model.

        Args:
            seed: Seed of the training.
            outputs: Outputs for all examples of the split.
            history: History of the training.
        """
        agreement, outputs = self.agreement(outputs), self._labeled(outputs)
        per_class, confusion = (
            None if values is None else values.tolist()
            for values in (self._task.per_class(outputs, self.labels), self._task.confusion(outputs, self.labels))
        )
        return Run(seed, self._task.evaluate(outputs, self.labels), history, agreement, per_class, confusion)

    def value(self, outputs: Any) -> float:
        """Return the score of a model's outputs.

        Args:
            outputs: Outputs for all examples of the split.
        """
        return self._task.evaluate(self._labeled(outputs), self.labels)

    def clearly_worse(self, outputs: Any, before: Any) -> bool:
        """Return whether a model's score is worse than before by more than the chance of these examples.

        Args:
            outputs: Outputs for all examples of the split.
            before: Outputs of the same model before.
        """
        interval = bootstrap(self._task.score_of, [self.records(outputs)], [self.records(before)], resamples=200)
        return max(self.score.sign * bound for bound in interval) < 0

    def summary(self, outputs: Any) -> str:
        """Return score and agreement with the teacher as text, such as "accuracy 97.60 %, agreement 98.10 %".

        Args:
            outputs: Outputs for all examples of the split.
        """
        text = f"{self.score.name} {self.score.text(self.value(outputs))}"
        value = self.agreement(outputs)
        return text if value is None else f"{text}, agreement {self.score.text(value)}"

    def least_confident(self) -> list[int]:
        """Return `Task.least_confident` as indices into the split; none without a teacher."""
        if self._teacher_outputs is None:
            return []
        outputs = self._labeled(self._teacher_outputs)
        return self.indices[list(self._task.least_confident(outputs, self.labels))].tolist()

    def agreement(self, outputs: Any) -> float | None:
        """Return `Task.agreement` with the teacher for all examples; None without a teacher and for the teacher itself.

        Args:
            outputs: Outputs for all examples of the split.
        """
        if self._teacher_outputs is None or outputs is self._teacher_outputs:
            return None
        return self._task.agreement(outputs, self._teacher_outputs)

    def _labeled(self, structure):
        return keras.tree.map_structure(lambda array: np.asarray(array)[self.indices], structure)
