"""Validation of an experiment before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_distill.experiment.arm import Arm
from keras_distill.experiment.transfer_examples import with_transfer_set
from keras_distill.teachers import CachedTeacher
from keras_distill.training.distiller import Distiller

if TYPE_CHECKING:
    from keras_distill.experiment.run import Experiment

TEACHER = "teacher"


def ordered(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms in the order of training: baselines first, as far as `start` and `teacher` allow.

    Args:
        arms: The arms.

    Raises:
        ValueError: If the list is empty.
    """
    if not arms:
        raise ValueError("`arms` must contain at least one `Arm`.")
    independent = [arm for arm in arms if not arm.distilled and arm.start in (None, TEACHER)]
    return [*independent, *(arm for arm in arms if arm not in independent)]


def baselines_of(arm: Arm, arms: Sequence[Arm]) -> list[str]:
    """Return the names of the arms that an arm is compared with.

    Args:
        arm: The arm.
        arms: All arms.
    """
    if arm.baselines is not None:
        return list(arm.baselines)
    return [other.name for other in arms if not other.distilled] if arm.distilled else []


def check_arms(plan: Experiment) -> None:
    """Raise ValueError for names that are not unique or unknown, missing teachers, labels and splits.

    Args:
        plan: The experiment.
    """
    names = [arm.name for arm in plan.arms]
    if len({TEACHER, *names}) <= len(names):
        raise ValueError(f"The names of the arms must be unique and not '{TEACHER}'. Received: {names}")
    if len(set(plan.seeds)) < len(plan.seeds) or not plan.seeds:
        raise ValueError(f"`seeds` must be different integers, at least one. Received: {plan.seeds}")
    if isinstance(plan.teacher, CachedTeacher):
        raise ValueError(
            "An experiment computes the teacher's outputs itself, for the training, validation and test splits. Pass "
            "the model as `teacher`, and `cache=` the folder of the outputs that `label` wrote for the training split."
        )
    earlier: list[str] = []
    has_model = isinstance(plan.teacher, Arm | keras.Model)
    for arm in plan.arms:
        for argument, required in (("start", arm.start), ("teacher", arm.teacher_arm)):
            allowed = [*earlier, *([TEACHER] if has_model and argument == "start" else [])]
            if required is not None and required not in allowed:
                raise ValueError(
                    f"`{argument}` of '{arm.name}' must be an arm that comes before it: {allowed}. Received: "
                    f"'{required}'"
                )
        unknown = sorted(set(baselines_of(arm, plan.arms)) - {*names} | {arm.name} & set(arm.baselines or ()))
        if unknown:
            raise ValueError(f"`baselines` of '{arm.name}' must be among the other arms {names}. Received: {unknown}")
        if arm.distilled and arm.teacher is None and plan.teacher is None:
            raise ValueError(f"'{arm.name}' has terms, but the experiment has no teacher. Pass `teacher`.")
        pass_steps = -(-len(plan.data.train) // arm.batch_size)
        if arm.steps_per_epoch is not None and arm.steps_per_epoch < pass_steps:
            raise ValueError(
                f"`steps_per_epoch` of '{arm.name}' must be at least {pass_steps}, one pass over the training set. "
                f"Received: {arm.steps_per_epoch}"
            )
        earlier.append(arm.name)
    _check_splits(plan)
    for option, chosen in (("keep", [plan.keep]), ("files", plan.files)):
        unknown = sorted(set(chosen) - {TEACHER, *names})
        if unknown:
            raise ValueError(f"`{option}` refers to unknown arms {unknown}. Arms: {names}")


def dry_run(plan: Experiment) -> None:
    """Build every model and distiller once, untrained, to raise errors before hours of training.

    Args:
        plan: The experiment.

    Raises:
        ValueError: If models, terms and labels do not fit together. The message names the arm.
    """
    teacher = plan.teacher
    if isinstance(teacher, Arm):
        teacher = teacher.new_student()
        # Raises for a teacher that could not be evaluated after its training.
        plan.task.predictor(teacher)
    models: dict[str | None, Any] = dict.fromkeys((None, TEACHER), teacher)
    splits = [split for split in (plan.data.train, plan.data.validation, plan.data.test) if split is not None]
    for arm in plan.arms:
        try:
            start = None if arm.start is None else models[arm.start]
            student = models[arm.name] = arm.new_student(start)
            if arm.distilled:
                source = models.get(arm.teacher_arm) if arm.teacher is None or arm.teacher_arm else arm.teacher
                terms, weight = arm.new_terms(student, source), arm.supervised_weight
                Distiller(student=student, teacher=source, terms=terms, supervised_weight=weight)
            if arm.transfer is not None:
                _check_transfer(plan, arm, student)
            for split in splits:
                labels = split.labels()
                if labels is not None:
                    plan.task.check(student, labels)
        except ValueError as error:
            raise ValueError(f"Arm '{arm.name}': {error}") from error


def _check_transfer(plan, arm, student):
    """Make a few examples of the transfer set."""
    few, task = plan.data.train.select(range(min(16, len(plan.data.train)))), plan.task
    if arm.transfer.mixes_labels and not arm.distilled:
        few, task = few.with_labels(task.soft_labels(few.labels(), student)), task.soft()
    with_transfer_set(few, arm, task, len(few))


def _check_splits(plan):
    if plan.data.train.labels() is None:
        unlabeled = [arm.name for arm in plan.arms if not arm.distilled]
        if unlabeled or isinstance(plan.teacher, Arm):
            named = unlabeled or [TEACHER]
            raise ValueError(f"The training split has no labels, on which {named} would be trained. Pass `(x, y)`.")
        if plan.teacher is None:
            raise ValueError("Without labels, the teacher's predictions are the reference. Pass `teacher`.")
    if plan.tuned and plan.data.test is None:
        raise ValueError(
            f"The search of {list(plan.tuned)} chooses by the validation split, on which its result would look too "
            "good. Pass Data(..., test=...) to compare the models on other examples."
        )
    waiting = [arm.name for arm in plan.arms if arm.patience is not None or arm.name in plan.tuned]
    if waiting and plan.data.validation is None:
        raise ValueError(
            f"Early stopping and the search of {waiting} need a validation split: they never read the test split. Pass "
            "Data(..., validation=0.1)."
        )
