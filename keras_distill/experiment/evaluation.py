"""Evaluation of trained models on one split."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_distill.experiment.model_result import Run
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import bootstrap
from keras_distill.experiment.task import Task


class Evaluation(NamedTuple):
    """Scores and records of a model on a split. The outputs would fill the memory for a large vocabulary.

    Attributes:
        score: Score of the labeled examples.
        agreement: Score with the teacher's predictions as labels, for all examples; None without a teacher and for
            the teacher itself.
        per_class: `Task.per_class` as a list; None if the task has none.
        confusion: `Task.confusion` as lists; None if the task has none.
        records: `Task.records` of the labeled examples.
        examples: Outputs for `Evaluator.examples`, shape `[examples, classes]`; None without such examples.
        predictions: `Task.as_labels` of the outputs for `Evaluator.drawn`; None without such examples.
    """

    score: float
    agreement: float | None
    per_class: list[float] | None
    confusion: list[list[int]] | None
    records: Any
    examples: np.ndarray | None
    predictions: Any

    def run(self, seed: int, history: dict[str, list[float]] | None = None, file: str | None = None) -> Run:
        """Return the scores as the `Run` of a trained model.

        Args:
            seed: Seed of the training.
            history: History of the training. Defaults to None, trained elsewhere.
            file: Path of the model, relative to the folder of the results. Defaults to None, saved elsewhere.
        """
        return Run(seed, self.score, history or {}, self.agreement, self.per_class, self.confusion, file)


class Evaluator:
    """Evaluates the outputs of models on a split.

    The score is that of the labeled examples, the agreement with the teacher that of all examples. Without labels the
    teacher's predictions are the reference, and the score is the agreement.

    Attributes:
        score: `Score` of the task; its name is "agreement" without labels.
        num_examples: Number of labeled examples.
        labels: Labels of these examples.
        indices: Their indices in the split.
        drawn: Indices of the first `Task.num_drawn` labeled examples.
        examples: `Task.least_confident` as indices into the split; none without a teacher.

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
        self.drawn = self.indices[: task.num_drawn].tolist()
        self._teacher_outputs = teacher_outputs
        self.examples: list[int] = []
        if teacher_outputs is not None:
            least_confident = task.least_confident(self._labeled(teacher_outputs), self.labels)
            self.examples = self.indices[list(least_confident)].tolist()

    def evaluate(self, outputs: Any) -> Evaluation:
        """Return the `Evaluation` of a model.

        Args:
            outputs: Outputs for all examples of the split.
        """
        task, labels, agreement = self._task, self.labels, None
        if self._teacher_outputs is not None and outputs is not self._teacher_outputs:
            agreement = task.agreement(outputs, self._teacher_outputs)
        examples = np.asarray(outputs)[self.examples] if self.examples else None
        drawn = keras.tree.map_structure(lambda array: np.asarray(array)[self.drawn], outputs) if self.drawn else None
        predictions = None if drawn is None else task.as_labels(drawn)
        outputs = self._labeled(outputs)
        records = task.records(outputs, labels)
        per_class, confusion = (
            None if values is None else values.tolist()
            for values in (task.per_class(outputs, labels), task.confusion(outputs, labels))
        )
        return Evaluation(task.score_of(records), agreement, per_class, confusion, records, examples, predictions)

    def clearly_worse(self, after: Evaluation, before: Evaluation) -> bool:
        """Return whether a model's score is worse than before by more than the chance of these examples.

        Args:
            after: Evaluation of the model.
            before: Evaluation of the same model before.
        """
        interval = bootstrap(self._task.score_of, [after.records], [before.records], resamples=200)
        return max(self.score.sign * bound for bound in interval) < 0

    def summary(self, evaluation: Evaluation) -> str:
        """Return score and agreement with the teacher as text, such as "accuracy 97.60 %, agreement 98.10 %".

        Args:
            evaluation: Evaluation of a model.
        """
        text = f"{self.score.name} {self.score.text(evaluation.score)}"
        agreement = evaluation.agreement
        return text if agreement is None else f"{text}, agreement {self.score.text(agreement)}"

    def _labeled(self, structure):
        if len(self.indices) == len(keras.tree.flatten(structure)[0]):
            return keras.tree.map_structure(np.asarray, structure)
        return keras.tree.map_structure(lambda array: np.asarray(array)[self.indices], structure)
