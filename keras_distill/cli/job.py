"""Models, data and loss terms of a distillation, as the options of `check` and `distill` name them."""

import argparse
import pathlib
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_distill import losses, mapping
from keras_distill.callbacks.tensorboard import TensorBoard
from keras_distill.experiment import Arm, LanguageModeling, Task
from keras_distill.experiment.store import slug
from keras_distill.losses.base import DistillationLoss
from keras_distill.models.dtype_policies import with_dtype_policy
from keras_distill.training.distiller import Distiller
from keras_distill.training.term import Term

from .common import CommandError, did_you_mean
from .objective import LossOption
from .reading import load


class Models:
    """Teacher and student of a command.

    Attributes:
        teacher: The teacher.
        student: The student with the weights of its file.

    Args:
        options: Options of the command.

    Raises:
        CommandError: If a model cannot be loaded.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self.teacher = self._load(options.teacher)
        self.student = self.new_student()

    def new_student(self) -> keras.Model:
        """Return the student with the weights of its file, and the precision of `--mixed-precision`."""
        student = self._load(self._options.student)
        policy = getattr(self._options, "mixed_precision", None)
        return student if policy is None else with_dtype_policy(student, policy)

    def _load(self, path: str) -> keras.Model:
        # The seeds of dropout layers are not saved; without this they would differ in each process.
        keras.utils.set_random_seed(self._options.seed)
        return load(path, self._options.modules)


def arm(options: argparse.Namespace, models: Models, task: Task, name: str, distilled: bool, **changes: Any) -> Arm:
    """Return the arm that the options describe.

    Args:
        options: Options of the command.
        models: The models.
        task: The `Task`.
        name: Name of the arm.
        distilled: Whether it has a teacher.
        **changes: Options with other values, such as `temperature`, and `transfer_set`.
    """
    chosen = argparse.Namespace(**{**vars(options), **changes})

    def optimizer(steps):
        rate = keras.optimizers.schedules.CosineDecay(chosen.learning_rate, steps)
        return keras.optimizers.get({"class_name": chosen.optimizer, "config": {"learning_rate": rate}})

    return Arm(
        name,
        models.new_student,
        (lambda student, teacher: terms(chosen, task, student, teacher)) if distilled else None,
        supervised_weight=chosen.alpha,
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        learning_rate=chosen.learning_rate,
        optimizer=optimizer,
        transfer=getattr(chosen, "transfer_set", None),
        patience=getattr(chosen, "patience", None),
    )


def terms(options: argparse.Namespace, task: Task, student: keras.Model, teacher: keras.Model) -> list[Term]:
    """Return the loss terms that the options name.

    Args:
        options: Options of the command.
        task: The `Task`, whose distillation loss compares the outputs unless `--loss` does.
        student: The student.
        teacher: The teacher.

    Raises:
        CommandError: If a loss does not exist, or does not take its settings.
    """
    listed = []
    # Published code for language models averages over all tokens of a batch.
    over = "tokens" if isinstance(task, LanguageModeling) else "examples"
    if all(each.student for each in options.losses):
        listed.append(Term(task.distillation_loss(options.temperature), weight=1 - options.alpha, over=over))
    for each in options.losses:
        weight = each.weight
        if each.student is None:
            listed.append(Term(_new_loss(each), weight=1 - options.alpha if weight is None else weight, over=over))
            continue
        pairs = [(each.student, each.teacher)]
        if "*" in each.student or "*" in each.teacher:
            pairs = mapping.uniform(mapping.layers(student, each.student), mapping.layers(teacher, each.teacher))
        listed += [
            Term(_new_loss(each), *pair, head="auto", weight=1.0 if weight is None else weight) for pair in pairs
        ]
    return listed


def needs_features(options: argparse.Namespace, models: Models, task: Task) -> bool:
    """Return whether terms compare intermediate layers; also checks that models and terms fit together.

    Args:
        options: Options of the command.
        models: The models.
        task: The `Task`.

    Raises:
        CommandError: If models and terms do not fit together.
        ValueError: As in `Distiller`.
    """
    listed = terms(options, task, models.student, models.teacher)
    Distiller(student=models.student, teacher=models.teacher, terms=listed, supervised_weight=options.alpha)
    return {tap for term in listed for tap in term.teacher_taps} != {"output"}


def new_strategy(devices: str | None) -> tf.distribute.Strategy | None:
    """Return the distribution strategy of `--devices`; None for one device.

    Args:
        devices: "all", a number of GPUs, or names of devices separated by commas.

    Raises:
        CommandError: If the machine has fewer GPUs.
    """
    if devices is None:
        return None
    available = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices("GPU")]
    if devices == "all" or devices.isdecimal():
        count = len(available) if devices == "all" else int(devices)
        if not 0 < count <= len(available):
            raise CommandError(f"--devices={devices}: this machine has {len(available)} GPUs.")
        names = available[:count]
    else:
        names = [name.strip() for name in devices.split(",")]
    return tf.distribute.MirroredStrategy(names)


def tensorboard(directory: str) -> Callable[[str, int], list[keras.callbacks.Callback]]:
    """Return the `callbacks` of an experiment that write TensorBoard logs.

    Args:
        directory: Directory of the logs, with a subdirectory for each training.
    """
    return lambda title, seed: [TensorBoard(str(pathlib.Path(directory) / slug(title)))]


def catalog() -> dict[str, type[DistillationLoss]]:
    """Return the losses that `--loss` takes, `{name: class}`."""
    classes = {name: getattr(losses, name) for name in sorted(losses.__all__)}
    return {
        name: value
        for name, value in classes.items()
        if isinstance(value, type) and issubclass(value, DistillationLoss) and value is not DistillationLoss
    }


def _acronyms(loss):
    """Return the lower-case acronyms in the first sentence of the documentation, such as "dkd" for DecoupledKD."""
    first_sentence = (loss.__doc__ or "").split("\n\n")[0].lower()
    return [acronym for group in re.findall(r"\(([\w, -]+)\)", first_sentence) for acronym in group.split(", ")]


def _new_loss(option: LossOption) -> DistillationLoss:
    available = catalog()
    wanted = option.loss.lower()
    loss = {name.lower(): loss for name, loss in available.items()}.get(wanted)
    if loss is None:
        named = [name for name, loss in available.items() if wanted in _acronyms(loss)]
        if len(named) > 1:
            raise CommandError(f"--loss: '{option.loss}' stands for several losses: {', '.join(named)}. Choose one.")
        loss = available[named[0]] if named else None
    if loss is None:
        suggestion = did_you_mean(option.loss, available) or " --list-losses lists them."
        raise CommandError(f"unknown loss '{option.loss}'.{suggestion}")
    try:
        return loss(**option.settings)
    except (TypeError, ValueError) as error:
        raise CommandError(f"--loss {option}: {error}") from error
