"""Base class of the tasks of an experiment."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_distill.experiment.score import Score
from keras_distill.losses.base import DistillationLoss


class Task:
    """Supervised loss, metrics and score of the models of an experiment. Abstract.

    A task needs `loss` and `records`; everything else has a default. `records` returns numbers for each example, and
    `score_of` makes the score of them. Since examples are resampled for an interval, the score must be a function of
    the records alone.

    Attributes:
        score: The `Score`. Defaults to a fraction called "score", higher is better.
        monitor: Logged metric of the validation split that early stopping and a search use. Defaults to "val_loss".
        num_drawn: Number of evaluation examples whose predictions a report shows as images, if `draw` returns them.
            Defaults to 0.
        mode: "min" or "max": whether a smaller or a larger value of `monitor` is better. Defaults to "min".
        same_outputs: Whether a teacher whose outputs have another shape than the student's is not evaluated. Defaults
            to True.

    Example: a task from outside the package, counts that are scored by their mean absolute error

    >>> from keras_distill.experiment import Score, Task
    >>> class Counts(Task):
    ...     score = Score("MAE", higher_is_better=False, percent=False)
    ...
    ...     def loss(self, model):
    ...         return keras.losses.Poisson()
    ...
    ...     def records(self, outputs, labels):
    ...         return np.abs(outputs - labels).mean(axis=-1)
    >>> Counts().evaluate(np.array([[1.0], [3.0]]), np.array([[2.0], [3.0]]))
    0.5
    """

    score = Score("score")
    monitor = "val_loss"
    mode = "min"
    num_drawn = 0
    same_outputs = True

    def __repr__(self):
        settings = {
            name: value if isinstance(value, str | int | float | bool | None) else type(value).__name__
            for name, value in vars(self).items()
        }
        return f"{type(self).__name__}({settings})"

    def loss(self, model: keras.Model) -> Any:
        """Return the supervised loss of a model, as `compile` takes it.

        Args:
            model: The student or teacher to train.
        """
        raise NotImplementedError

    def records(self, outputs: Any, labels: Any) -> Any:
        """Return the numbers of each example that the score is made of.

        Args:
            outputs: Outputs of a model, array of shape `[examples, ...]`, or a structure of several.
            labels: Labels of the same examples; none is missing.

        Returns:
            Array of shape `[examples, ...]`, such as 1 for a correct and 0 for a wrong prediction; or a structure of
            several.
        """
        raise NotImplementedError

    def score_of(self, records: Any) -> float:
        """Return the score. Defaults to the mean of the records.

        Args:
            records: Returned by `records`, or some of its rows.
        """
        return float(np.mean(records))

    def resolution(self, examples: int) -> float:
        """Return the smallest difference between two scores. Defaults to 0.0, for continuous scores.

        Args:
            examples: Number of evaluation examples.
        """
        return 0.0

    def predictor(self, model: keras.Model) -> keras.Model:
        """Return the model whose outputs are evaluated. Defaults to the model itself.

        Args:
            model: A trained student or teacher.
        """
        return model

    def metrics(self, model: keras.Model) -> list[Any]:
        """Return the metrics of a model, as `compile` takes them. Defaults to none.

        Args:
            model: The student or teacher to train.
        """
        return []

    def distillation_loss(self, temperature: float) -> DistillationLoss:
        """Return the loss between the outputs of teacher and student that is used where no terms are given.

        Args:
            temperature: Softmax temperature, > 0. 1 to 4 is typical.

        Raises:
            ValueError: If the task has no such loss. This is the default.
        """
        raise ValueError(f"{type(self).__name__} has no default distillation loss. Pass the `terms` of each arm.")

    def as_labels(self, outputs: Any) -> Any:
        """Return the labels that a model predicts, to measure its agreement with another. Defaults to the outputs.

        Args:
            outputs: Outputs of a model, as for `records`.
        """
        return outputs

    def labeled(self, labels: Any) -> np.ndarray:
        """Return which examples have a label.

        Args:
            labels: Labels, array of shape `[examples, ...]` or a structure of several.

        Returns:
            Booleans, shape `[examples]`. By default an example has no label if all its numbers are NaN.
        """
        masks = [~np.isnan(rows).all(axis=1) for rows in map(_as_rows, keras.tree.flatten(labels)) if rows is not None]
        count = len(keras.tree.flatten(labels)[0])
        return np.logical_or.reduce(masks) if masks else np.ones(count, bool)

    def missing_labels(self, labels: Any) -> Any:
        """Return labels of the same shape that count as missing. Defaults to NaN.

        Args:
            labels: Labels in a floating-point dtype.
        """
        return keras.tree.map_structure(lambda array: np.full_like(array, np.nan), labels)

    def soft(self) -> "Task":
        """Return the task for labels that are mixtures of two. Defaults to the task itself, for real-valued labels."""
        return self

    def soft_labels(self, labels: Any, model: keras.Model) -> Any:
        """Return labels in the form that `soft` reads and that can be averaged. Defaults to the labels.

        Args:
            labels: Labels as for `loss`.
            model: A student.
        """
        return labels

    def check(self, model: keras.Model, labels: Any) -> None:
        """Raise ValueError if labels do not fit a model, before training starts. Accepts everything by default.

        Args:
            model: The student or teacher.
            labels: Labels of a split.
        """

    def classes(self, model: keras.Model) -> list[str] | None:
        """Return names of the classes for a report. Defaults to None: no classes.

        Args:
            model: A student.
        """
        return None

    def per_class(self, outputs: Any, labels: Any) -> np.ndarray | None:
        """Return a score for each class, shape `[classes]`. Defaults to None: none.

        Args:
            outputs: As for `records`.
            labels: As for `records`.
        """
        return None

    def confusion(self, outputs: Any, labels: Any) -> np.ndarray | None:
        """Return counts `[true class, predicted class]`. Defaults to None: none.

        Args:
            outputs: As for `records`.
            labels: As for `records`.
        """
        return None

    def least_confident(self, teacher_outputs: Any, labels: Any) -> Sequence[int]:
        """Return the indices of examples whose soft targets a report shows. Defaults to none.

        Args:
            teacher_outputs: Outputs of the teacher, as for `records`.
            labels: As for `records`.
        """
        return []

    def draw(self, inputs: Any, labels: Any) -> np.ndarray | None:
        """Return labels as images, for a report: those of a split, or those that a model predicts.

        Args:
            inputs: Inputs of `num_drawn` examples, an array or a structure of several.
            labels: Labels of the same examples, as for `records`, or returned by `as_labels`.

        Returns:
            uint8, shape `[examples, height, width]` or `[examples, height, width, 3]`; None for inputs or labels
            other than images. Defaults to None.
        """
        return None

    def evaluate(self, outputs: Any, labels: Any) -> float:
        """Return the score of a model's outputs.

        Args:
            outputs: As for `records`.
            labels: As for `records`.
        """
        return self.score_of(self.records(outputs, labels))

    def agreement(self, outputs: Any, teacher_outputs: Any) -> float:
        """Return the score of a model's outputs with the teacher's predictions as labels.

        Args:
            outputs: Outputs of the student, as for `records`.
            teacher_outputs: Outputs of the teacher for the same examples.
        """
        return self.evaluate(outputs, self.as_labels(teacher_outputs))


def _as_rows(array):
    """Return a float array as `[examples, numbers]`; None for another dtype, which has no NaN."""
    array = np.asarray(array)
    return array.reshape(len(array), -1) if np.issubdtype(array.dtype, np.floating) else None
