"""Command `keras-distill distill`."""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .common import (
    CommandError,
    Commands,
    add_command,
    add_dataset,
    add_force,
    add_import,
    add_output,
    as_command_error,
    count_noun,
    finite_number,
    number_of_epochs,
    positive_integer,
)
from .objective import add_objective, add_training

if TYPE_CHECKING:
    from keras_distill.preflight import Finding

    from .data import Data
    from .job import DistillationJob
    from .training import Training


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "distill",
        usage="TEACHER STUDENT --dataset=SOURCE --out=DIR [options]",
        summary="train a student with a teacher, and evaluate both",
        description="Train a saved student on the labels and a saved teacher's outputs, and evaluate both on a "
        "validation split. Both models must be classifiers with logits or a softmax as output. Training is "
        "fault-tolerant: rerun the same command to resume after a crash or preemption.",
        examples=(
            "keras-distill distill teacher.keras student.keras --dataset=train.npz --out=run",
            "keras-distill distill teacher.keras student.keras --dataset=mnist --scale=1/255 --out=run \\\n"
            "      --validation=test --temperature=2 --alpha=0.5 --epochs=30 --baseline",
            "keras-distill distill teacher.keras student.keras --dataset=images/ --scale=1/255 --out=run \\\n"
            "      --cache=cache --hint 'block_*:block_*:0.1'",
        ),
        notes="\nfiles in --out:\n"
        "  student.keras  trained student, which does not need the teacher\n"
        "  history.csv    losses and metrics of each epoch\n"
        "  results.json   all results, for `keras-distill report`\n"
        "  report.html    report, if jinja2 and matplotlib are installed\n"
        "  baseline.keras, history_baseline.csv  student trained without a teacher (with --baseline)",
    )
    parser.add_argument("teacher", metavar="TEACHER", help=".keras file, loaded in Keras' safe mode; never modified")
    parser.add_argument(
        "student", metavar="STUDENT", help=".keras file, loaded in Keras' safe mode; its weights are the initial ones"
    )
    data = add_dataset(parser)
    data.add_argument(
        "--validation",
        type=_validation,
        default=0.1,
        metavar="FRACTION|SPLIT|SOURCE",
        help="data to evaluate on: a fraction of the dataset in (0, 1), which is not trained on; another split of it, "
        "e.g. test; or another dataset (default: 0.1)",
    )
    data.add_argument(
        "--cache",
        metavar="DIR",
        help="cache of the teacher's outputs for this dataset, as written by `label`; written first if it does not "
        "exist (default: run the teacher in every step)",
    )
    add_objective(parser)
    training = add_training(parser)
    training.add_argument(
        "--epochs", type=number_of_epochs, default=10, metavar="N", help="number of epochs, >= 1 (default: 10)"
    )
    training.add_argument(
        "--baseline", action="store_true", help="also train the student without a teacher, for comparison"
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
    output = add_output(parser, metavar="DIR", help="directory of the trained student and the results")
    add_force(output, "the files and checkpoints of an earlier run in --out")
    add_import(parser)
    parser.set_defaults(run=run, resumable=True)


def run(options: argparse.Namespace) -> None:
    """Train, evaluate and write the results."""
    out = pathlib.Path(options.out)
    if out.exists() and not out.is_dir():
        raise CommandError(f"{out} is not a directory. Choose another --out.")
    with as_command_error(f"cannot distill {options.student}"):
        _run(options, out)


def _run(options: argparse.Namespace, out: pathlib.Path) -> None:
    from .data import Data
    from .job import DistillationJob
    from .results import FILES, previous_results, print_results, run_settings
    from .training import Training

    job = DistillationJob(options)
    data = Data(options, job, options.validation)
    if options.baseline and data.labels is None:
        raise CommandError(
            f"{options.dataset} has no labels, which --baseline trains on. Add labels or drop --baseline."
        )
    settings = run_settings(options, job)
    training = Training(options, job, data, settings)
    if not (options.force or training.has_checkpoints()) and any((out / name).exists() for name in FILES):
        results = previous_results(out, settings)
        if results is None:
            raise CommandError(f"{out} contains another run. Choose another --out, or replace it with --force.")
        print(f"{out} already contains the results of this run:")
        print_results(results)
        return
    with _locked(out):
        _train(options, out, job, data, settings, training)


def _train(
    options: argparse.Namespace,
    out: pathlib.Path,
    job: "DistillationJob",
    data: "Data",
    settings: dict[str, Any],
    training: "Training",
) -> None:
    from keras_distill.saving.runs import CheckpointMismatchError

    from .results import FILES, Evaluator, print_results
    from .training import VALIDATION

    files = [out / name for name in FILES]
    if not training.has_checkpoints():
        data.check_labels()
    if options.cache is not None:
        data.check_cache(options.cache)
    findings = _check_before_training(options, job, data)
    if options.force:
        training.delete_checkpoints()
        for path in files:
            path.unlink(missing_ok=True)
    if options.cache is not None:
        data.use_cache(options.cache, training.directory / VALIDATION)
    # Made before training, since it also evaluates the initial student.
    evaluator = Evaluator(options, job, data, settings)
    try:
        trained = training.run()
    except CheckpointMismatchError as error:
        raise CommandError(
            f"{out} contains an unfinished run with other options: {error.differences}. Rerun with the same options, "
            "choose another --out, or replace it with --force."
        ) from error
    results = evaluator.results(trained, findings)
    print_results(results)
    training.delete_checkpoints()
    print(f"Wrote {', '.join(path.name for path in files if path.exists())} to {out}")


@contextlib.contextmanager
def _locked(out: pathlib.Path) -> Iterator[None]:
    """Lock the directory of the results for this process; create it, and remove it again if nothing is written."""
    from keras_distill.utils import locks

    is_new = not out.exists()
    try:
        with locks.locked(out / "writing.lock"):
            yield
    except locks.LockedError as error:
        raise CommandError(
            f"another `keras-distill distill` is writing to {out}: {error.holder}. Wait until it has ended, or choose "
            "another --out."
        ) from None
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                out.rmdir()


def _check_before_training(options: argparse.Namespace, job: "DistillationJob", data: "Data") -> "list[Finding]":
    """Run the pre-flight diagnostics, print their findings as warnings and return them."""
    findings = job.findings(data)
    for finding in findings:
        print(f"keras-distill: warning: {finding.what} {finding.seen} {finding.advice}", file=sys.stderr)
    if findings and options.strict:
        raise CommandError(f"training did not start: {count_noun(len(findings), 'problem')} found with --strict set.")
    return findings


def _validation(text: str) -> float | str:
    """Return a fraction as a number, and any other text as it is."""
    try:
        float(text.partition("/")[0])
    except ValueError:
        return text
    fraction = finite_number(text)
    if not 0 < fraction < 1:
        raise argparse.ArgumentTypeError(f"must be a fraction in (0, 1), a split or a dataset, got {text}")
    return fraction
