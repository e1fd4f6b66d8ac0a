"""Command-line flags of the recipes, and what they mean for an `Experiment`."""

import contextlib
import functools
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import app, flags

from keras_distill.distribution import workers
from keras_distill.experiment import Data

from . import data

TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Softmax temperature of the soft targets.", lower_bound=1e-3)
ALPHA = flags.DEFINE_float(
    "alpha",
    0.5,
    "Weight of the supervised loss; the soft targets get 1 - alpha.",
    lower_bound=0.0,
    upper_bound=0.999,
)
EPOCHS = flags.DEFINE_integer("epochs", 30, "Number of epochs of each student.", lower_bound=1)
TEACHER_EPOCHS = flags.DEFINE_integer("teacher_epochs", 30, "Number of epochs of the teacher.", lower_bound=1)
SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds; every student is trained with each of them.", lower_bound=1)
LABELS = flags.DEFINE_integer(
    "labels",
    None,
    "Number of training examples whose labels the students may use. The teacher is trained on all labels, and the "
    "distilled student uses the teacher's outputs for all examples. Defaults to all.",
    lower_bound=1,
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Global batch size.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Initial learning rate of Adam, with a cosine decay to 0.")
TEACHER_LEARNING_RATE = flags.DEFINE_float(
    "teacher_learning_rate", None, "Initial learning rate of the teacher. Defaults to --learning_rate.", lower_bound=0.0
)
TEACHER = flags.DEFINE_enum(
    "teacher",
    "cached",
    ["cached", "online"],
    "cached: compute the teacher's outputs once and store them in the workdir. online: run the teacher in every step.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for teacher.keras, students, results.json and report.html. Models that were trained there with the same "
    "settings are reused, and an interrupted run resumes. Defaults to runs/<recipe>.",
)
STRATEGY = flags.DEFINE_enum(
    "strategy",
    "none",
    ["none", "mirrored", "multi_worker", "tpu"],
    "Distribution strategy. none: one device. mirrored: all devices of this machine. multi_worker: the machines in "
    "TF_CONFIG; run the same command on each of them, with a shared --workdir. tpu: a TPU.",
)
SMOKE = flags.DEFINE_bool("smoke", False, "Smoke test: one epoch, one seed and few examples.")


def defaults(**values: Any) -> None:
    """Set the recipe's defaults of the flags above.

    Args:
        **values: `flag=value`.
    """
    for name, value in values.items():
        flags.FLAGS.set_default(name, value)


def run(recipe: Callable[[], None]) -> None:
    """Parse the flags and call the recipe; `--help` lists the flags of all recipes.

    Args:
        recipe: Function without arguments.
    """
    for module in (__name__, f"{__package__}.data"):
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Unknown arguments: {argv[1:]}. --help lists the flags.")
        with contextlib.ExitStack() as stack:
            if not workers.is_chief(strategy()):
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            recipe()

    app.run(main)


def as_data(arrays: data.Arrays, validation: float | None = None) -> Data:
    """Return the `Data` of an experiment, evaluated on the split of `--evaluate_on`.

    Args:
        arrays: The dataset. With `--smoke`, the first 256 examples of each split.
        validation: Fraction of the training split that a search chooses by, in (0, 1). Defaults to None, no search.
    """
    first = slice(256 if SMOKE.value else None)
    train, evaluation = data.rows(arrays.train, first), data.rows(arrays.test, first)
    if validation is not None:
        return Data(train, evaluation, validation, arrays.classes)
    return Data(train, classes=arrays.classes, **{data.EVALUATE_ON.value: evaluation})


def training(**values: Any) -> dict[str, Any]:
    """Return the arguments of a student's `Arm` that flags determine.

    Args:
        **values: Values in place of those of the flags, such as `epochs=5`.
    """
    from_flags = {"epochs": EPOCHS.value, "batch_size": BATCH_SIZE.value, "learning_rate": LEARNING_RATE.value}
    return {**from_flags, **values, **({"epochs": 1, "steps_per_epoch": None} if SMOKE.value else {})}


def teacher_training() -> dict[str, Any]:
    """Return the arguments of the teacher's `Arm` that flags determine."""
    rate = TEACHER_LEARNING_RATE.value or LEARNING_RATE.value
    return training(epochs=TEACHER_EPOCHS.value, learning_rate=rate)


def options() -> dict[str, Any]:
    """Return the arguments of an `Experiment` that flags determine."""
    return {
        "seeds": 1 if SMOKE.value else SEEDS.value,
        "labels": LABELS.value,
        "cache": TEACHER.value == "cached",
        "temperature": TEMPERATURE.value,
        "settings": settings(),
        "command": shlex.join(["python", "-m", f"{__package__}.{_name()}", *sys.argv[1:]]),
        "strategy": None if STRATEGY.value == "none" else strategy(),
    }


def settings() -> dict[str, Any]:
    """Return the flags of this recipe and those of all recipes, `{name: value}`."""
    modules = flags.FLAGS.flags_by_module_dict()
    ours = (module for module in modules if module.startswith(f"{__package__}.") or module == sys.argv[0])
    return {flag.name: flag.value for module in ours for flag in flags.FLAGS.flags_by_module_dict()[module]}


def folder() -> pathlib.Path:
    """Return the path of the workdir."""
    return pathlib.Path(WORKDIR.value or f"runs/{_name()}")


@functools.cache
def strategy() -> tf.distribute.Strategy:
    """Return the `tf.distribute.Strategy` of `--strategy`.

    It is created once, before any other TensorFlow operation runs.
    """
    makers = {
        "none": tf.distribute.get_strategy,
        "mirrored": tf.distribute.MirroredStrategy,
        "multi_worker": tf.distribute.MultiWorkerMirroredStrategy,
        "tpu": _tpu_strategy,
    }
    return makers[STRATEGY.value]()


def _name():
    return pathlib.Path(sys.argv[0]).stem


def _tpu_strategy():
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise app.UsageError(
            f"--strategy=tpu found no TPU named '{name}'. Set TPU_NAME to its name or address, or unset it on a "
            f"machine with a local TPU. TensorFlow's error: {str(error).splitlines()[0]}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)
