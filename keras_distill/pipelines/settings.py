"""Settings of a TFX Trainer or Tuner node, passed through its `custom_config`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from keras_distill.experiment import Task
from keras_distill.saving import runs
from keras_distill.utils.arguments import check_integer, check_number

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

CLASSIFICATION = "keras_distill.experiment:Classification"
_KEY = "keras_distill"
_FUNCTIONS = ("model", "preprocessing", "terms", "compile", "task", "strategy")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Training settings for `run_fn` and tuning settings for `tuner_fn`, as plain values that a pipeline can store.

    Functions are given as strings, "package.module:function". Functions with an `hp` argument receive a
    `keras_tuner.HyperParameters`: the best values found by a Tuner, or else the defaults defined in the function.

    Example:

    >>> from keras_distill.pipelines.settings import Settings
    >>> settings = Settings("my_project.models:student", terms="my_project.models:terms", label="label", epochs=10)

    Pass `custom_config=settings.as_config()` to a Trainer with `run_fn="keras_distill.pipelines.training.run_fn"`.

    Args:
        model: Function `model(hp)` that builds the Keras model to train: a student, or a teacher to train on labels.
        label: Name of the label feature. Defaults to None: train with the terms only.
        preprocessing: Function `preprocessing(features)` that maps a batch `{name: tensor}` to the model's inputs, in
            training and in serving. Defaults to None: pass a single feature as it is, several as a dictionary.
        terms: Function `terms(hp)` that returns a list of `Term`. Defaults to None: train with the labels only.
        compile: Function `compile(model, hp)` that compiles the model. Defaults to None: Adam, and loss and metrics of
            the `task`.
        task: Function `task()` that returns the `experiment.Task`, such as the class
            "keras_distill.experiment:Regression". Defaults to None: `Classification`.
        features: Names of the input features. Defaults to None: all features except the label.
        supervised_weight: Weight of the supervised loss, >= 0, as in `Distiller`. Defaults to 1.0.
        epochs: Number of epochs, >= 1. With `train_args.num_steps`, the number of equal parts that these steps are
            divided into. Defaults to 1.
        batch_size: Global batch size, >= 1. 32 to 512 is typical. Defaults to 128.
        shuffle_buffer: Size of the shuffle buffer in examples, >= 1. Defaults to 10,000.
        seed: Seed of the initial weights and of the order of the examples, >= 0. Defaults to 0.
        taps: Taps that the exported model outputs in its "activations" signature, for a `TeacherLabeller`. Defaults to
            `("output",)`.
        strategy: Function `strategy()` that returns a `tf.distribute.Strategy`. Defaults to None: one device.
        backup_dir: Directory of the training checkpoints. Choose one that outlives the node, to resume after a
            preemption. Defaults to None: a folder in the `model_run` artifact, which only outlives a restart of the
            same execution.
        backup_every: Number of steps between checkpoints, >= 1. Defaults to None: one checkpoint per epoch.
        objective: Metric by which a Tuner ranks trials. Defaults to None: `monitor` of the task, such as
            "val_accuracy".
        max_trials: Number of trials of a Tuner, >= 1. Defaults to 10.

    Raises:
        ValueError: If a number is out of its range.
    """

    model: str
    label: str | None = None
    preprocessing: str | None = None
    terms: str | None = None
    compile: str | None = None
    task: str | None = None
    features: tuple[str, ...] | None = None
    supervised_weight: float = 1.0
    epochs: int = 1
    batch_size: int = 128
    shuffle_buffer: int = 10_000
    seed: int = 0
    taps: tuple[str, ...] = ("output",)
    strategy: str | None = None
    backup_dir: str | None = None
    backup_every: int | None = None
    objective: str | None = None
    max_trials: int = 10

    def __post_init__(self):
        for name in ("epochs", "batch_size", "shuffle_buffer", "max_trials"):
            check_integer(getattr(self, name), name)
        check_integer(self.seed, "seed", at_least=0)
        check_integer(self.backup_every, "backup_every", optional=True)
        check_number(self.supervised_weight, "supervised_weight", at_least=0)

    def as_config(self) -> dict[str, Any]:
        """Return the settings as the `custom_config` of a node.

        The configuration includes library versions and digests of the functions' source files. TFX reuses the cached
        outputs of a node while its configuration is unchanged, even if the code behind it has changed.

        Returns:
            A dictionary that JSON can represent.

        Raises:
            ValueError: If a function cannot be found.
        """
        fields = dataclasses.asdict(self)
        modules = sorted({_split(fields[name])[0] for name in _FUNCTIONS if self.resolve(name)})
        sources = {module: _source_digest(importlib.import_module(module)) for module in modules}
        return {_KEY: json.loads(json.dumps({**fields, "versions": runs.versions(), "sources": sources}))}

    @classmethod
    def from_fn_args(cls, fn_args: FnArgs) -> Settings:
        """Return the settings in the `custom_config` of a node.

        Args:
            fn_args: Arguments that TFX passes to `run_fn` or `tuner_fn`.

        Raises:
            ValueError: If the `custom_config` has no settings of keras_distill.
        """
        config = (fn_args.custom_config or {}).get(_KEY)
        if config is None:
            raise ValueError(
                "The node has no keras_distill settings. Pass custom_config=Settings(...).as_config(). "
                f"Received: custom_config={fn_args.custom_config!r}"
            )
        return cls(**{name: value for name, value in config.items() if name not in ("versions", "sources")})

    def new_task(self) -> Task:
        """Return the `experiment.Task` of the setting `task`.

        Raises:
            ValueError: If the function cannot be imported.
        """
        return resolve_task(self.task or CLASSIFICATION)

    def resolve(self, name: str) -> Callable | None:
        """Return the function that a setting refers to.

        Args:
            name: Name of the setting, such as "terms".

        Returns:
            The function, or None if the setting is None.

        Raises:
            ValueError: If the function cannot be imported or is not callable.
        """
        reference = getattr(self, name)
        return None if reference is None else _resolve(name, reference)


def resolve_task(reference: str) -> Task:
    """Return the `experiment.Task` that a function returns.

    Args:
        reference: The function, as "package.module:function".

    Raises:
        ValueError: If the function cannot be imported, or returns something else.
    """
    task = _resolve("task", reference)()
    if not isinstance(task, Task):
        raise ValueError(f"'{reference}' must return a keras_distill.experiment.Task. Received: {task!r}")
    return task


def _resolve(name, reference):
    module, attribute = _split(reference)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`{name}` could not be imported from '{reference}': {error}.") from error
    if not callable(function):
        raise ValueError(f"`{name}` must be a function, but '{reference}' is not callable. Received: {function!r}")
    return function


def _split(reference: str) -> tuple[str, str]:
    module, colon, attribute = reference.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"A function must be given as 'package.module:function'. Received: {reference!r}")
    return module, attribute


def _source_digest(module: ModuleType) -> str:
    return hashlib.sha256(pathlib.Path(inspect.getsourcefile(module)).read_bytes()).hexdigest()[:16]
