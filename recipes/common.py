"""What all recipes share: their flags, the devices they run on, and their folder."""

import contextlib
import functools
import os
import pathlib
import shlex
import sys

import tensorflow as tf
from absl import app, flags

from keras_distill.distribution import workers
from recipes import data as data_sets

TEMPERATURE = flags.DEFINE_float("temperature", 4.0, "Temperature of the softened logits.", lower_bound=1e-3)
ALPHA = flags.DEFINE_float(
    "alpha", 0.1, "Weight of the labels; the softened logits get 1 - alpha.", lower_bound=0.0, upper_bound=0.999
)
EPOCHS = flags.DEFINE_integer("epochs", 30, "Epochs of each student.", lower_bound=1)
TEACHER_EPOCHS = flags.DEFINE_integer("teacher_epochs", 30, "Epochs of the teacher.", lower_bound=1)
SEEDS = flags.DEFINE_integer("seeds", 3, "Trains every student with the seeds 0 to this number, less 1.", lower_bound=1)
LABELS = flags.DEFINE_integer(
    "labels",
    None,
    "How many training pictures have a label that the students may see. The teacher knows all labels, and tells "
    "the distilled student about all pictures. Defaults to all.",
    lower_bound=1,
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples a step.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's first learning rate; it falls along a cosine to 0.")
TEACHER_LEARNING_RATE = flags.DEFINE_float(
    "teacher_learning_rate", None, "That of the teacher, if it is another.", lower_bound=0.0
)
TEACHER = flags.DEFINE_enum(
    "teacher",
    "cached",
    ["cached", "online"],
    "Whether the teacher runs once, before the first epoch, and what it says is kept in the workdir; or in every step.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for teacher.keras, students, results.json and report.html. What was trained there with the same settings "
    "is not trained again. Defaults to runs/<recipe>.",
)
STRATEGY = flags.DEFINE_enum(
    "strategy",
    "none",
    ["none", "mirrored", "multi_worker", "tpu"],
    "Devices that share each step: one; all of this machine; all of the machines that TF_CONFIG names, which run the "
    "same command at once and see the same --workdir; or a TPU. --batch_size counts the examples of all.",
)
SMOKE = flags.DEFINE_bool("smoke", False, "One epoch, one seed, few examples: whether it runs, not what it yields.")


def defaults(**values):
    """The recipe's own defaults of the flags above."""
    for name, value in values.items():
        flags.FLAGS.set_default(name, value)


def run(recipe):
    """Parses the flags and calls `recipe()`; `--help` lists all of the recipes' flags."""
    for module in (__name__, data_sets.__name__):
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Not a flag: {argv[1:]}. Try --help.")
        # TensorFlow warns of the functions that each new model needs.
        tf.get_logger().setLevel("ERROR")
        if writes():
            recipe()
        else:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                recipe()

    app.run(main)


@functools.cache
def strategy():
    """What `--strategy` names: a `tf.distribute.Strategy`, made once, before anything else of TensorFlow runs."""
    makers = {
        "none": tf.distribute.get_strategy,
        "mirrored": tf.distribute.MirroredStrategy,
        "multi_worker": tf.distribute.MultiWorkerMirroredStrategy,
        "tpu": _tpu_strategy,
    }
    return makers[STRATEGY.value]()


def writes():
    """Whether this process is the one, of those that share the steps, that writes into the workdir."""
    return workers.is_chief(strategy())


def folder():
    """The workdir, which is made if it is not there."""
    made = pathlib.Path(WORKDIR.value or f"runs/{_name()}")
    made.mkdir(parents=True, exist_ok=True)
    return made


def settings():
    """All flags of this recipe and of what recipes share, `{name: value}`."""
    ours = (module for module in flags.FLAGS.flags_by_module_dict() if "recipes" in module or module == sys.argv[0])
    return {flag.name: flag.value for module in ours for flag in flags.FLAGS.flags_by_module_dict()[module]}


def choices():
    """The settings that a trained model depends on: not where things are, which devices train it, how many others."""
    elsewhere = "workdir", "data_dir", "originals", "strategy", "seeds"
    return {name: value for name, value in settings().items() if name not in elsewhere}


def command():
    """The command that made this run."""
    return shlex.join(["python", "-m", f"recipes.{_name()}", *sys.argv[1:]])


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
            f"--strategy=tpu found no TPU called '{name}'. Set TPU_NAME to its name or address; on a machine that has "
            f"TPUs of its own, leave it out. TensorFlow says: {str(error).splitlines()[0]}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)
