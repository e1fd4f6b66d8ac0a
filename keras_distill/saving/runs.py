"""State and description of a training run, and differences between two runs."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import re

import keras
import tensorflow as tf

from keras_distill.distribution import workers
from keras_distill.saving import checkpoints
from keras_distill.training.base import BaseDistiller
from keras_distill.utils import locks
from keras_distill.utils.files import is_local

_LOCK = "training.lock"


class CheckpointMismatchError(ValueError):
    """The checkpoint in a folder belongs to another run.

    Args:
        folder: The folder of the checkpoints.
        differences: Differences between the two runs, for the message.
    """

    def __init__(self, folder: str | os.PathLike, differences: str):
        super().__init__(
            f"The checkpoint in '{folder}' belongs to another run: {differences}. Resume with the same script, "
            "settings and packages, choose another folder, or delete the folder to start from scratch."
        )
        self.differences = differences


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return all variables that training changes, except those of metrics, in a fixed order.

    Args:
        model: A compiled model with a built optimizer.

    Returns:
        `{name: variable}` of weights, random states, a teacher's state and the optimizer.
    """
    untracked = model.untracked_variables().values() if isinstance(model, BaseDistiller) else ()
    return _name_variables(model=model.variables, unlisted=untracked, optimizer=model.optimizer.variables)


def metrics(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the variables of the metrics in a fixed order, `{name: variable}`."""
    return _name_variables(metric=model.metrics_variables)


def describe(model: keras.Model, seed: int, settings: dict, data: dict) -> dict:
    """Describe everything that must be equal in a run and the checkpoint it resumes from, and on all workers.

    Args:
        model: A compiled model with a built optimizer.
        seed: Seed of the data order.
        settings: Settings of the user's script.
        data: Properties of the dataset.

    Returns:
        Dictionary in the form in which JSON returns it.
    """
    description = {
        "versions": versions(),
        "seed": seed,
        "settings": settings,
        "data": data,
        "steps_per_execution": model.steps_per_execution,
        "variables": [[name, list(variable.shape), variable.dtype] for name, variable in variables(model).items()],
    }
    return json.loads(json.dumps(description))


def differences(first: dict, second: dict, first_place: str, second_place: str) -> str:
    """Describe the differences between two runs in words.

    Args:
        first: Description of a run: a dictionary with any of `versions`, `settings` and `data`, each a dictionary;
            `seed` and `steps_per_execution`; and `variables`, a list of `[name, shape, dtype]`.
        second: Description of another run, in the same form.
        first_place: Place where the first was found, such as "on worker 0".
        second_place: Place where the second was found, such as "on worker 1".

    Returns:
        Text such as "seed 0 on worker 0 and 1 on worker 1". Empty if the runs are equal.
    """
    texts = []
    # Part by part: a setting may have the same name as an entry of another part, such as "seed".
    for part in ("versions", "settings", "data"):
        a, b = first.get(part, {}), second.get(part, {})
        texts += [
            f"{name} {a.get(name)!r} {first_place} and {b.get(name)!r} {second_place}"
            for name in dict.fromkeys([*a, *b])
            if a.get(name) != b.get(name)
        ]
    for key in ("seed", "steps_per_execution"):
        if first.get(key) != second.get(key):
            texts.append(f"{key} {first.get(key)!r} {first_place} and {second.get(key)!r} {second_place}")
    pairs = itertools.zip_longest(first.get("variables", ()), second.get("variables", ()))
    unequal = [
        (a, b)
        for a, b in pairs
        if a is None or b is None or a[1:] != b[1:] or strip_numbers(a[0]) != strip_numbers(b[0])
    ]
    if unequal:
        a, b = map(_format_variable, unequal[0])
        texts.append(f"{len(unequal)} variables, such as {a} {first_place} and {b} {second_place}")
    return "; ".join(texts)


def check_workers(strategy: tf.distribute.Strategy, run: dict) -> None:
    """Check that all workers train the same run. Collective: every worker must call it, and all raise together.

    Args:
        strategy: The current strategy. A single process passes.
        run: Description of this worker's run, in the form that `differences` takes.

    Raises:
        ValueError: If another worker's description differs from that of the first worker.
    """
    first, *others = (json.loads(text) for text in workers.all_gather_text(strategy, json.dumps(run)))
    for worker, other in enumerate(others, 1):
        text = differences(first, other, "on worker 0", f"on worker {worker}")
        if text:
            raise ValueError(
                f"The workers run different trainings: {text}. Start all workers with the same script, settings and "
                "packages."
            )


def find_checkpoint(
    folder: str | os.PathLike, strategy: tf.distribute.Strategy, run: dict
) -> tuple[dict, int] | tuple[None, None]:
    """Find the checkpoint from which all workers resume. Collective: every worker must call it, and all raise together.

    Args:
        folder: The folder of the checkpoints.
        strategy: The current strategy.
        run: Description of this worker's run, in the form that `differences` takes. The metadata of a checkpoint hold
            theirs as `run`.

    Returns:
        Metadata and number of the checkpoint, or `(None, None)` to start from scratch.

    Raises:
        ValueError: If the workers run different trainings or see different checkpoints, and if no checkpoint is intact.
        CheckpointMismatchError: If the checkpoint belongs to another run.
    """
    metadata = number = fault = None
    try:
        metadata, number = checkpoints.latest(folder)
    except (OSError, ValueError) as error:
        fault = str(error)
    check_workers(strategy, run)
    own = json.dumps({"number": number, "fault": fault})
    found = [json.loads(text) for text in workers.all_gather_text(strategy, own)]
    for worker, other in enumerate(found):
        if other["fault"] is not None:
            raise ValueError(other["fault"])
        if other["number"] != found[0]["number"]:
            raise ValueError(
                f"The workers see different checkpoints in '{folder}': the latest is {found[0]['number']} on worker 0 "
                f"and {other['number']} on worker {worker}. Choose a folder that all workers share."
            )
    if metadata is not None:
        text = differences(metadata["run"], run, "in the checkpoint", "now")
        if text:
            raise CheckpointMismatchError(folder, text)
    return metadata, number


def lock_checkpoint(
    folder: str | os.PathLike, strategy: tf.distribute.Strategy, run: dict
) -> tuple[dict, int] | tuple[None, None]:
    """Lock a folder of checkpoints for this training, and return `find_checkpoint`. Collective, as that is.

    The chief holds the lock, until `unlock` or the end of its process. Cloud storage has no locks.

    Args:
        folder: The folder of the checkpoints.
        strategy: The current strategy.
        run: As for `find_checkpoint`.

    Raises:
        RuntimeError: If another process trains in the folder.
        ValueError: As `find_checkpoint`. The folder is not locked then.
    """
    holder = ""
    if workers.is_chief(strategy) and is_local(folder):
        try:
            locks.lock(os.path.join(folder, _LOCK))
        except locks.LockedError as error:
            holder = error.holder
    holder = "".join(workers.all_gather_text(strategy, holder))
    if holder:
        raise RuntimeError(
            f"Another process is training in '{folder}': {holder}. Wait until it has ended, or choose another folder."
        )
    try:
        return find_checkpoint(folder, strategy, run)
    except ValueError:
        unlock(folder)
        raise


def unlock(folder: str | os.PathLike) -> None:
    """Release the lock of this process, and delete the folder if nothing else is in it."""
    locks.unlock(os.path.join(folder, _LOCK))
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the numerical results, `{package: version}`."""
    try:
        own = importlib.metadata.version("keras-distill")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {"keras": keras.__version__, "tensorflow": tf.__version__, "keras_distill": own}


def strip_numbers(name: str) -> str:
    """Return a variable's name without the numbers that Keras appends to generated names.

    A process that loads a model numbers its layers differently than the process that trained it.
    """
    return re.sub(r"_\d+", "", name)


def _name_variables(**kinds):
    found = {id(variable): (kind, variable) for kind, variables in kinds.items() for variable in variables}
    return {f"{kind}/{index}/{variable.path}": variable for index, (kind, variable) in enumerate(found.values())}


def _format_variable(entry):
    return "none" if entry is None else f"'{entry[0]}' {tuple(entry[1])} {entry[2]}"
