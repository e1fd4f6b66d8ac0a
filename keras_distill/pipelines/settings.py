"""What a Trainer or Tuner is told by its `custom_config`."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import pathlib

from keras_distill.saving import runs

_KEY = "keras_distill"
_PLACES = ("student", "preprocessing", "terms", "compile", "strategy")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How `run_fn` trains and `tuner_fn` tunes, as plain values that a pipeline can carry.

    ```python
    Trainer(
        run_fn="keras_distill.pipelines.training.run_fn",
        custom_config=Settings("my_project.models:student", terms="my_project.models:terms", label="label").as_config(),
        ...
    )
    ```

    Functions are named by where they are, "package.module:function". Those that are given `hp` are given a
    `keras_tuner.HyperParameters`: what a Tuner found, or else the defaults that they name themselves.

    Args:
        student: `student(hp)` makes the model that is trained: a student, or a teacher that has none.
        label: The feature that holds the labels. None trains by the terms alone.
        preprocessing: `preprocessing(features)` makes the model's inputs of a batch of `{name: tensor}`, in training
            and in serving. By default the one feature there is, or the dictionary of all.
        terms: `terms(hp)` makes the list of `Term`. None trains by the labels alone.
        compile: `compile(model, hp)` compiles it. By default Adam, cross-entropy of logits, and accuracy.
        features: Names of the features that are used. Defaults to all but the label.
        supervised_weight: As for `Distiller`.
        epochs: How often the training examples are gone through; with `train_args.num_steps`, into how many equal parts
            those steps are divided.
        batch_size: Examples of a step.
        shuffle: Examples that are held in memory to be shuffled.
        seed: Of the first weights and of the order of the examples.
        taps: What the exported model shows of itself to a `TeacherLabeller`.
        strategy: `strategy()` makes a `tf.distribute.Strategy`. None trains on one device.
        backup: A folder that outlives the node, so that a training that was killed goes on there. By default in the
            artifact `model_run`, which only outlives a restart of the same execution.
        backup_every: How many steps of an epoch the backup is written after. Defaults to None, after epochs only.
        objective: What a Tuner compares trials by.
        trials: How many it makes.
    """

    student: str
    label: str | None = None
    preprocessing: str | None = None
    terms: str | None = None
    compile: str | None = None
    features: tuple | None = None
    supervised_weight: float = 1.0
    epochs: int = 1
    batch_size: int = 128
    shuffle: int = 10_000
    seed: int = 0
    taps: tuple = ("output",)
    strategy: str | None = None
    backup: str | None = None
    backup_every: int | None = None
    objective: str = "val_accuracy"
    trials: int = 10

    def as_config(self):
        """The `custom_config` of a node. It names versions and what the functions' modules hold, too: TFX takes a node
        for done when its configuration is the same, whatever the code behind it.

        Raises:
            ValueError: If a function is not where it is said to be.
        """
        fields = dataclasses.asdict(self)
        modules = sorted({_split(fields[name])[0] for name in _PLACES if self.function(name)})
        sources = {module: _print_of(importlib.import_module(module)) for module in modules}
        return {_KEY: json.loads(json.dumps({**fields, "versions": runs.versions(), "sources": sources}))}

    @classmethod
    def of(cls, fn_args):
        """The settings that a node was given.

        Raises:
            ValueError: If it was given none.
        """
        config = (fn_args.custom_config or {}).get(_KEY)
        if config is None:
            raise ValueError(
                "The node has no settings of keras_distill. Give it custom_config=Settings(...).as_config(). "
                f"Received: {fn_args.custom_config!r}"
            )
        return cls(**{name: value for name, value in config.items() if name not in ("versions", "sources")})

    def function(self, name):
        """The function that is meant, or None.

        Raises:
            ValueError: If it is not where it is said to be.
        """
        place = getattr(self, name)
        if place is None:
            return None
        module, attribute = _split(place)
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"`{name}` is not at '{place}': {error}.") from error
        if not callable(found):
            raise ValueError(f"`{name}` must be a function. At '{place}' is: {found!r}")
        return found


def _split(place):
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"A function is named 'package.module:function'. Received: {place!r}")
    return module, attribute


def _print_of(module):
    return hashlib.sha256(pathlib.Path(inspect.getsourcefile(module)).read_bytes()).hexdigest()[:16]
