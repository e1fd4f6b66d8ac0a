"""Command `keras-distill check`."""

import argparse

from .common import (
    Commands,
    add_command,
    add_dataset,
    add_import,
    as_command_error,
    count_noun,
    positive_integer,
    print_table,
)
from .objective import add_objective, add_training


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "check",
        usage="CACHE [--teacher=MODEL]\n       keras-distill check TEACHER STUDENT --dataset=SOURCE [options]",
        summary="verify a teacher cache, or diagnose a distillation before training",
        description="With one path, list the contents of a cache and verify the checksums of all its files. With two, "
        "run pre-flight diagnostics of data, teacher predictions, gradients and learning rate on a few batches, with "
        "the same options as `distill`. The exit status is 1 if there are problems.",
        examples=(
            "keras-distill check cache",
            "keras-distill check cache --teacher teacher.keras",
            "keras-distill check teacher.keras student.keras --dataset=train.npz",
            "keras-distill check teacher.keras student.keras --dataset=mnist --scale=1/255 --hint block_2:block_4",
        ),
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a cache directory written by `label`; or two .keras files, teacher and student, loaded in Keras' safe "
        "mode",
    )
    parser.add_argument("--teacher", metavar="MODEL", help="also verify that the cache is of this teacher")
    data = add_dataset(parser, required=False)
    data.add_argument(
        "--batches",
        type=positive_integer,
        default=8,
        metavar="N",
        help="largest number of batches to check, >= 1 (default: 8)",
    )
    add_objective(parser)
    add_training(parser)
    add_import(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int | None:
    """Check a cache, or two models."""
    if len(options.paths) > 2:
        options.error(f"expected a cache, or a teacher and a student, got {len(options.paths)} paths")
    if len(options.paths) == 1:
        if options.dataset is not None:
            options.error("the student is missing: keras-distill check TEACHER STUDENT --dataset=SOURCE")
        return _check_cache(options, *options.paths)
    if options.dataset is None:
        options.error("--dataset is required to check a teacher and a student")
    if options.teacher is not None:
        options.error("--teacher is only valid with a cache; pass teacher and student as TEACHER STUDENT")
    options.teacher, options.student = options.paths
    return _check_models(options)


def _check_cache(options: argparse.Namespace, directory: str) -> None:
    from .reading import load

    teacher = None if options.teacher is None else load(options.teacher, options.modules)

    from keras_distill.cache import open_cache

    with as_command_error(f"cannot use {directory}"):
        stored = open_cache(directory, teacher)
        rows = [("tap", "shape", "dtype", "stored")]
        for tap, spec in stored.taps.items():
            values = f"top {stored.tops[tap]}" if tap in stored.tops else "all"
            rows.append((tap, str(tuple(spec.shape)), spec.dtype.name, values))
        print_table(rows)
        views = f", {stored.views} augmented views of each" if stored.views > 1 else ""
        print(f"{stored.examples // stored.views:,} examples{views}")
        stored.verify(verbose=1)
    print("The cache is intact: all files match their checksums.")


def _check_models(options: argparse.Namespace) -> int:
    with as_command_error(f"cannot check {options.student}"):
        from .data import Data
        from .job import DistillationJob

        job = DistillationJob(options)
        data = Data(options, job)
        findings = job.findings(data, options.batches)
    available = -(-data.num_training // options.batch_size)
    checked = f"({count_noun(min(options.batches, available), 'batch')} checked)."
    problems = f"{count_noun(len(findings), 'problem')} found" if findings else "No problems found"
    print(*findings, f"{problems} {checked}", sep="\n\n")
    return int(bool(findings))
