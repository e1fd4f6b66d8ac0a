"""Command `keras-distill check`."""

import argparse

from .argument_types import positive_integer
from .common import Commands, add_command, add_dataset, add_import, as_command_error, print_table
from .objective import add_objective, add_training, choose_length

# Exit status that tells problems from a failure of the command, which is 1.
PROBLEMS = 3


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "check",
        usage="CACHE [--teacher=MODEL]\n       keras-distill check TEACHER STUDENT --dataset=SOURCE [options]",
        summary="verify a teacher cache, or diagnose a distillation before training",
        description="With one path, list the contents of a cache and verify the checksums of all its files. With two, "
        "run pre-flight diagnostics of data, teacher predictions, gradients and learning rate on a few batches, with "
        "the same options as `distill`. The exit status is 3 if there are problems.",
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
        from keras_distill.experiment.transfer_examples import with_transfer_set
        from keras_distill.preflight import check
        from keras_distill.training.distiller import Distiller
        from keras_distill.utils.formatting import count_noun

        from .data import open_training
        from .job import Models, arm
        from .transfer import transfer_set

        models = Models(options)
        examples, task = open_training(options, models.student, models.teacher)
        choose_length(options, len(examples))
        transfer = transfer_set(options, models.student, models.teacher)
        distilled = arm(options, models, task, "distilled", distilled=True, transfer_set=transfer)
        steps = -(-len(examples) // options.batch_size)
        distiller = Distiller(
            student=models.student,
            teacher=models.teacher,
            terms=distilled.new_terms(models.student, models.teacher),
            supervised_weight=options.alpha,
        )
        labeled = examples.labels() is not None
        loss, metrics = (task.loss(models.student), task.metrics(models.student)) if labeled else (None, None)
        distiller.compile(distilled.new_optimizer(options.epochs * steps), loss, metrics=metrics)
        if transfer is not None:
            examples = with_transfer_set(examples, distilled, task, len(examples))
        # Shuffled, since the first batches of an ordered dataset may all be of one class.
        findings = check(distiller, examples.shuffled_batches(options.batch_size), batches=options.batches)
    checked = f"({count_noun(min(options.batches, steps), 'batch')} checked)."
    problems = f"{count_noun(len(findings), 'problem')} found" if findings else "No problems found"
    print(*findings, f"{problems} {checked}", sep="\n\n")
    return PROBLEMS if findings else 0
