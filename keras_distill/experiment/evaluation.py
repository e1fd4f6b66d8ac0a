"""Evaluation of trained models on one split."""

from typing import Any

import keras
import numpy as np

from keras_distill.experiment.examples import Examples
from keras_distill.experiment.results import Run
from keras_distill.experiment.score import Score
from keras_distill.experiment.task import Task


class Evaluator:
    """Evaluates the outputs of models on the labeled examples of a split.

    Without labels the teacher's predictions are the reference: the score is the agreement with the teacher.

    Attributes:
        score: `Score` of the task; its name is "agreement" without labels.
        num_examples: Number of labeled examples.
        labels: Labels of these examples.
        indices: Their indices in the split.

    Args:
        task: The `Task`.
        examples: The split.
        teacher_outputs: Outputs of the teacher for all examples of the split, or None.

    Raises:
        ValueError: If no example has a label.
    """

    def __init__(self, task: Task, examples: Examples, teacher_outputs: Any):
        self._task, labels = task, examples.labels()
        self.score: Score = task.score
        if labels is None:
            labels = task.as_labels(teacher_outputs)
            self.score = Score(f"agreement ({task.score.name})", task.score.higher_is_better, task.score.percent)
        self.indices = np.flatnonzero(task.labeled(labels))
        if not len(self.indices):
            raise ValueError("No example of the evaluation split has a label. Choose another split.")
        self.labels = self._labeled(labels)
        self.num_examples = len(self.indices)
        self._teacher_outputs = None if teacher_outputs is None else self._labeled(teacher_outputs)

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
        outputs = self._labeled(outputs)
        per_class, confusion = (
            None if values is None else values.tolist()
            for values in (self._task.per_class(outputs, self.labels), self._task.confusion(outputs, self.labels))
        )
        score = self._task.evaluate(outputs, self.labels)
        return Run(seed, score, history, self._agreement(outputs), per_class, confusion)

    def value(self, outputs: Any) -> float:
        """Return the score of a model's outputs.

        Args:
            outputs: Outputs for all examples of the split.
        """
        return self._task.evaluate(self._labeled(outputs), self.labels)

    def summary(self, outputs: Any, agreement: bool = True) -> str:
        """Return score and agreement with the teacher as text, such as "accuracy 97.60 %, agreement 98.10 %".

        Args:
            outputs: Outputs for all examples of the split.
            agreement: Whether to add the agreement. Defaults to True.
        """
        outputs = self._labeled(outputs)
        text = f"{self.score.name} {self.score.text(self._task.evaluate(outputs, self.labels))}"
        value = self._agreement(outputs) if agreement else None
        return text if value is None else f"{text}, agreement {self.score.text(value)}"

    def least_confident(self) -> list[int]:
        """Return `Task.least_confident` as indices into the split; none without a teacher."""
        if self._teacher_outputs is None:
            return []
        return self.indices[list(self._task.least_confident(self._teacher_outputs, self.labels))].tolist()

    def _agreement(self, outputs):
        return None if self._teacher_outputs is None else self._task.agreement(outputs, self._teacher_outputs)

    def _labeled(self, structure):
        return keras.tree.map_structure(lambda array: np.asarray(array)[self.indices], structure)
