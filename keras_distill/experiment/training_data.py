"""Training and validation examples of each arm of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import keras

from keras_distill.experiment.arm import Arm
from keras_distill.experiment.data import labeled_only, repeated, with_few_labels
from keras_distill.experiment.examples import Examples
from keras_distill.experiment.task import Task
from keras_distill.experiment.transfer_examples import with_transfer_set

if TYPE_CHECKING:
    from keras_distill.experiment.run import Experiment


class TrainingData:
    """Training and validation examples of the arms of an `Experiment`.

    Attributes:
        labeled: Whether there are labels.

    Args:
        plan: The `Experiment`.
        new_student: Function from an arm to an untrained student.
    """

    def __init__(self, plan: Experiment, new_student: Callable[[Arm], keras.Model]):
        self._plan, self._new_student = plan, new_student
        self._few = with_few_labels(plan.data.train, plan.labels, plan.task)
        self._latest: tuple[Arm, Examples] | None = None
        self.labeled = self._few.labels() is not None

    def task(self, arm: Arm) -> Task:
        """Return the task that an arm is trained for: that of the experiment, unless labels of a baseline are mixtures.

        Args:
            arm: The arm.
        """
        mixes = arm.transfer is not None and arm.transfer.mixes_labels and not arm.distilled
        return self._plan.task.soft() if mixes else self._plan.task

    def examples(self, arm: Arm) -> Examples:
        """Return the training examples of an arm: the labeled ones for a baseline.

        Args:
            arm: The arm, or that of the teacher.
        """
        # The examples of all arms would fill the memory. A searched arm has the name of its default.
        if self._latest is None or self._latest[0] is not arm:
            self._latest = (arm, self._made(arm))
        return self._latest[1]

    def validation(self, arm: Arm) -> Examples | None:
        """Return the validation split, with labels as an arm is trained on; None without one.

        Args:
            arm: The arm.
        """
        split = self._plan.data.validation
        return None if split is None else self._softened(split, arm)

    def _made(self, arm):
        plan = self._plan
        # A teacher that is trained here sees all labels.
        examples = plan.data.train if arm is plan.teacher else self._few
        if not arm.distilled:
            examples = self._softened(labeled_only(examples, plan.task), arm)
        steps = arm.steps_per_epoch
        count = len(plan.data.train) if steps is None else steps * arm.batch_size
        if arm.transfer is None:
            return repeated(examples, count)
        return with_transfer_set(examples, arm, self.task(arm), count)

    def _softened(self, examples, arm):
        task = self._plan.task
        if self.task(arm) is task or examples.labels() is None:
            return examples
        return examples.with_labels(task.soft_labels(examples.labels(), self._new_student(arm)))
