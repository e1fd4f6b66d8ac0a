"""Command `keras-distill distill`."""

import argparse
import contextlib
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

from . import config
from .argument_types import positive_integer, read_names, split_or_fraction
from .common import (
    CommandError,
    Commands,
    add_command,
    add_dataset,
    add_force,
    add_import,
    add_output,
    as_command_error,
)
from .export import export_formats
from .objective import add_objective, add_training, choose_length

if TYPE_CHECKING:
    from keras_distill.experiment import Arm, Task, TunedArm

    from .job import Models

_FILES = ("student.keras", "history.csv", "results.json", "report.html")
# Options that do not change the results.
_NOT_RECORDED = ("out", "force", "command", "quiet", "verbose", "log_dir", "backup_every", "strict", "config", "cache")


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "distill",
        usage="TEACHER STUDENT --dataset=SOURCE --out=DIR [options]",
        summary="train a student with and without a teacher, and compare them",
        description="Train a saved student on the labels and a saved teacher's outputs, and the same student on the "
        "labels alone, the baseline; compare both with the teacher. Training is fault-tolerant: rerun the same command "
        "to resume after a crash or preemption. To make a STUDENT, see `keras-distill student`.",
        examples=(
            "keras-distill distill teacher.keras student.keras --dataset=train.npz --out=run",
            "keras-distill distill teacher.keras student.keras --dataset=mnist --scale=1/255 --out=run \\\n"
            "      --test=test --temperature=2 --alpha=0.5 --epochs=30 --seeds=3",
            "keras-distill distill teacher.keras student.keras --dataset=images/ --out=run \\\n"
            "      --test=0.2 --tune=20 --hint 'block_*:block_*:0.1' --export=int8",
            "keras-distill distill --config=run/run.yaml --out=again",
        ),
        notes="\nfiles in --out:\n"
        "  student.keras  trained student, which does not need the teacher\n"
        "  history.csv    losses and metrics of each model, seed and epoch\n"
        "  results.json   all results, for `keras-distill report`\n"
        "  report.html    report, if jinja2 and matplotlib are installed\n"
        "  run.yaml       all options, to repeat the run: distill --config=run.yaml\n"
        "  models/        every trained model\n"
        "  files/         exported models, with --export",
    )
    files = ".keras file, loaded in Keras' safe mode, or directory of a preset of KerasHub; "
    parser.add_argument("teacher", metavar="TEACHER", help=f"{files}never modified")
    parser.add_argument("student", metavar="STUDENT", help=f"{files}its weights are the initial ones")
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with the options of a run, by name; options given here override it"
    )
    _add_data(parser)
    add_objective(parser)
    _add_training(parser)
    output = add_output(parser, metavar="DIR", help="directory of the trained student and the results")
    output.add_argument(
        "--export",
        action="append",
        metavar="FORMAT",
        help="also export the student, and the teacher for comparison, and measure the files: tflite, int8, onnx and "
        "others that `export --list-formats` lists; may be repeated (default: student.keras only)",
    )
    add_force(output, "the results of an earlier run in --out")
    output.add_argument("--log-dir", metavar="DIR", help="directory of TensorBoard logs (default: none)")
    add_import(parser)
    parser.set_defaults(run=run, resumable=True)


def _add_data(parser):
    data = add_dataset(parser)
    split = {"type": split_or_fraction, "metavar": "FRACTION|SPLIT|SOURCE"}
    data.add_argument(
        "--validation",
        **split,
        help="data for early stopping and --tune, and to evaluate on if there is no --test: a fraction of the dataset "
        "in (0, 1), which is not trained on; another split of it; or another dataset (default: 0.1 if it is needed)",
    )
    data.add_argument(
        "--test",
        **split,
        help="data that the models are compared on; no setting is chosen by it (default: the "
        "validation split; with --tune, 0.1)",
    )
    data.add_argument(
        "--classes",
        type=read_names,
        metavar="NAMES",
        help="class names for the report: separated by commas, or a text file with one per line (default: those of the "
        "dataset)",
    )
    data.add_argument(
        "--cache",
        metavar="DIR",
        help="cache of the teacher's outputs for this dataset, as written by `label`; written first if it does not "
        "exist (default: a directory in --out; for intermediate layers and language models, the teacher runs in every "
        "step)",
    )
    data.add_argument(
        "--no-cache", dest="cache", action="store_const", const=False, help="run the teacher in every step"
    )


def _add_training(parser):
    training = add_training(parser)
    training.add_argument(
        "--seeds",
        type=positive_integer,
        default=1,
        metavar="N",
        help="number of seeds, from --seed on; every model is trained with each of them, always from the weights of "
        "STUDENT, and from 2 on the report tests whether the difference may be chance; 3 to 10 is typical (default: 1)",
    )
    training.add_argument(
        "--tune",
        type=positive_integer,
        metavar="TRIALS",
        help="also search temperature, alpha and epochs on the validation split (default: no search)",
    )
    training.add_argument(
        "--patience",
        type=positive_integer,
        metavar="EPOCHS",
        help="stop after this number of epochs without improvement on the validation split, and keep the best weights "
        "(default: train all epochs)",
    )
    training.add_argument(
        "--baseline",
        action=argparse.BooleanOptionalAction,
        help="also train the student without a teacher, for comparison (default: if there are labels)",
    )
    training.add_argument(
        "--devices",
        metavar="all|N|NAMES",
        help="devices to train on: all GPUs, the first N, or names such as GPU:0,GPU:1 (default: one)",
    )
    training.add_argument(
        "--mixed-precision",
        choices=("mixed_bfloat16", "mixed_float16"),
        help="precision of the student's layers (default: as saved)",
    )
    training.add_argument(
        "--backup-every",
        type=positive_integer,
        default=500,
        metavar="STEPS",
        help="steps between two checkpoints within an epoch, >= 1; one is also written after every epoch "
        "(default: 500)",
    )
    training.add_argument(
        "--strict",
        action="store_true",
        help="do not train if `check` finds problems (default: print them as warnings and train)",
    )


def run(options: argparse.Namespace) -> None:
    """Train, compare and write the results."""
    out = pathlib.Path(options.out)
    if out.exists() and not out.is_dir():
        raise CommandError(f"{out} is not a directory. Choose another --out.")
    with as_command_error(f"cannot distill {options.student}"):
        from .job import new_strategy

        strategy = new_strategy(options.devices)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            _run(options, out, strategy)


def _run(options, out, strategy):
    from keras_distill.experiment import Experiment, LanguageModeling
    from keras_distill.utils.formatting import count_noun

    from .data import open_data
    from .job import Models, needs_features, tensorboard
    from .texts import is_preset, save_preset

    models = Models(options)
    data, task = open_data(options, models.student, models.teacher)
    choose_length(options, len(data.train))
    labeled = data.train.labels() is not None
    if options.baseline and not labeled:
        raise CommandError(
            f"{options.dataset} has no labels, which --baseline trains on. Add labels or drop --baseline."
        )
    formats = export_formats(options, "--export", options.export)
    uses_features = needs_features(options, models, task)
    # The logits of all words of all tokens take more space than is likely to be free.
    is_large = uses_features or isinstance(task, LanguageModeling)
    cache = options.cache if options.cache is not None else bool(options.tune) or not is_large
    settings, kept = _settings(options, models), "tuned" if options.tune else "distilled"
    _check_previous(options, out, settings)
    experiment = Experiment(
        task,
        data,
        models.teacher,
        _arms(options, models, task, labeled if options.baseline is None else options.baseline),
        seeds=range(options.seed, options.seed + options.seeds),
        title=f"Distillation of '{models.teacher.name}' into '{models.student.name}'",
        description="" if labeled else "The dataset has no labels: the teacher's predictions are the reference.",
        cache=cache,
        strict=options.strict,
        temperature=options.temperature,
        settings=settings,
        command=options.command,
        files=dict.fromkeys(["teacher", kept], formats) if formats else None,
        keep=kept,
        strategy=strategy,
        backup_every=options.backup_every,
        callbacks=None if options.log_dir is None else tensorboard(options.log_dir),
    )
    print(
        f"{len(data.train):,} training and {len(data.evaluation):,} {data.evaluation_name} examples; "
        f"{count_noun(options.epochs, 'epoch')}, batch size {options.batch_size}"
    )
    out.mkdir(parents=True, exist_ok=True)
    try:
        experiment.run(out)
        if is_preset(pathlib.Path(options.student)):
            save_preset(pathlib.Path(options.student), out)
        config.write(options, out / "run.yaml")
        if options.seeds == 1 and options.baseline is not False:
            command = f"keras-distill distill --config={shlex.quote(str(out / 'run.yaml'))} --seeds=5 --force"
            print(f"\nTo see how much of the difference is chance, train four more seeds:\n    {command}")
    finally:
        # Nothing is left of a run that failed before it wrote a file.
        with contextlib.suppress(OSError):
            out.rmdir()


def _arms(options, models: "Models", task: "Task", baseline: bool) -> "list[Arm | TunedArm]":
    import keras_tuner

    from keras_distill.experiment import TunedArm
    from keras_distill.tuning import spaces

    from .job import arm
    from .transfer import transfer_set

    transfer = transfer_set(options, models.student, models.teacher)
    arms: list[Any] = []
    if baseline:
        arms.append(arm(options, models, task, "baseline", distilled=False))
        if transfer is not None and transfer.augmentation is not None:
            # Shows what the new examples gain without a teacher.
            arms.append(arm(options, models, task, "baseline, new examples", distilled=False, transfer_set=transfer))
    arms.append(arm(options, models, task, "distilled", distilled=True, transfer_set=transfer))
    if options.tune:
        choices = sorted({max(1, options.epochs // 2), options.epochs, 2 * options.epochs})

        def tuned(hp: keras_tuner.HyperParameters) -> "Arm":
            values = {
                "temperature": spaces.temperature(hp, default=options.temperature),
                "alpha": spaces.alpha(hp, default=options.alpha),
                "epochs": hp.Choice("epochs", choices, default=options.epochs),
            }
            return arm(options, models, task, "tuned", distilled=True, transfer_set=transfer, **values)

        arms.append(TunedArm("tuned", tuned, options.tune, default="distilled"))
    return arms


def _settings(options, models):
    from keras_distill.cache import fingerprint

    recorded = {name: value for name, value in config.values(options).items() if name not in _NOT_RECORDED}
    weights = {name: fingerprint.of_weights(getattr(models, name).weights) for name in ("teacher", "student")}
    return {**recorded, **{f"{name} weights": value for name, value in weights.items()}}


def _check_previous(options, out, settings):
    """Raise an error if the directory contains the results of another run."""
    import json

    from keras_distill.experiment import Results

    if options.force or not any((out / name).exists() for name in _FILES):
        return
    try:
        same = Results.load(out / "results.json").settings == json.loads(json.dumps(settings))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        same = False
    if not same:
        raise CommandError(f"{out} contains another run. Choose another --out, or replace it with --force.")
