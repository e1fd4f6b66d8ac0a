"""keras-distill distill"""

import argparse
import pathlib
import sys

from .common import (
    CommandError,
    add_dataset,
    add_force,
    add_import,
    as_command_error,
    command,
    fraction_below_one,
    positive_integer,
)
from .objective import add_objective


def add(commands):
    parser = command(
        commands,
        "distill",
        "train a student by a teacher",
        "Trains a saved student on what a saved teacher says and on labels, and judges both on examples that are held "
        "out. Both are classifiers, which end in logits or in a softmax. A run that was killed goes on when the same "
        "command is started again.",
        "keras-distill distill teacher.keras student.keras --dataset=train.npz --out=run",
        "keras-distill distill teacher.keras student.keras --dataset=mnist --scale=1/255 --out=run \\\n"
        "      --validation=test --temperature=2 --alpha=0.5 --epochs=30 --baseline",
        "keras-distill distill teacher.keras student.keras --dataset=pictures/ --scale=1/255 --out=run \\\n"
        "      --cache=cache --hint 'block_*:block_*:0.1'",
        after="\nIt writes into --out:\n"
        "  student.keras  the trained student, without a trace of its teacher\n"
        "  history.csv    losses and metrics of each epoch\n"
        "  results.json   all numbers, for `keras-distill report`\n"
        "  report.html    the page, if jinja2 and matplotlib are installed\n"
        "With --baseline also student_alone.keras and history_alone.csv.",
    )
    parser.add_argument("teacher", metavar="TEACHER", help="a .keras file, read in Keras' safe mode; it stays as it is")
    parser.add_argument("student", metavar="STUDENT", help="likewise; training begins with the weights that it has")
    add_dataset(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write what comes out")
    add_objective(parser)
    group = parser.add_argument_group("how it is learnt")
    group.add_argument("--epochs", type=positive_integer, default=10, metavar="N", help="default 10")
    group.add_argument(
        "--validation",
        type=_validation,
        default=0.1,
        metavar="SHARE|SPLIT|SOURCE",
        help="what the models are judged on: a share of the examples, which is held out, default 0.1; another split of "
        "the data set, such as test; or another data set",
    )
    group.add_argument(
        "--baseline",
        action="store_true",
        help="also train the student by the labels alone, for comparison",
    )
    group.add_argument(
        "--cache",
        metavar="DIR",
        help="what `label` wrote of this data set, so that the teacher need not run in each step; it is written if it "
        "is not there",
    )
    group.add_argument(
        "--backup-every",
        type=positive_integer,
        default=500,
        metavar="STEPS",
        help="how many steps a killed run loses at most; default 500, and each epoch",
    )
    parser.add_argument(
        "--strict", action="store_true", help="do not begin if `check` finds something; by default it is only said"
    )
    add_force(parser, "what an earlier run has written, or begun, in --out")
    add_import(parser)
    parser.set_defaults(run=run, goes_on=True)


def run(options):
    out = pathlib.Path(options.out)
    if out.exists() and not out.is_dir():
        raise CommandError(f"{out} is no folder. Choose another --out.")
    with as_command_error(f"cannot distill {options.student}"):
        return _run(options, out)


def _run(options, out):
    from . import results
    from .data import Data
    from .job import DistillationJob
    from .training import VALIDATION, Training

    lesson = DistillationJob(options)
    material = Data(options, lesson, options.validation)
    if options.baseline and material.labels is None:
        raise CommandError(f"{options.dataset} has no labels, from which a --baseline could learn.")
    settings = results.settings(options, lesson)
    training = Training(options, lesson, material, settings)
    written = [out / name for name in results.FILES]
    if not (options.force or training.begun()) and any(path.exists() for path in written):
        results = results.earlier(out, settings)
        if results is None:
            raise CommandError(f"{out} holds another run. Choose another --out, or replace it with --force.")
        print(f"{out}: trained earlier")
        results.tell(results)
        return
    if options.cache is not None:
        material.check_cache(options.cache)
    new = not out.exists()
    # Whether it can be written to is told before the seconds that the check takes.
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = _look_ahead(options, lesson, material)
    except CommandError:
        if new:
            out.rmdir()
        raise
    if options.force:
        training.forget()
        for path in written:
            path.unlink(missing_ok=True)
    if options.cache is not None:
        material.use_cache(options.cache, training.folder / VALIDATION)
    judge = results.Judge(options, lesson, material, settings)
    results = judge.results(training.run(), found)
    results.tell(results)
    training.forget()
    print(f"Written to {out}: {', '.join(path.name for path in written if path.exists())}")


def _look_ahead(options, lesson, material):
    found = lesson.findings(material)
    for finding in found:
        print(f"keras-distill: warning: {finding.what} {finding.seen} {finding.advice}", file=sys.stderr)
    if found and options.strict:
        raise CommandError("not begun, since --strict was given.")
    return found


def _validation(text):
    """A share as a number, all else as it is."""
    try:
        float(text.partition("/")[0])
    except ValueError:
        return text
    if not fraction_below_one(text):
        raise argparse.ArgumentTypeError("nothing would be held out to judge the models by")
    return fraction_below_one(text)
