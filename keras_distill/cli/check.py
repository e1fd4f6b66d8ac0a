"""keras-distill check"""

from .common import add_dataset, add_import, as_command_error, command, positive_integer, print_table
from .objective import add_objective


def add(commands):
    parser = command(
        commands,
        "check",
        "say whether a cache is whole, or whether a distillation would go well",
        "With one path: says what a cache holds, and reads all of it to see whether it is what was written. With two: "
        "looks for what would go wrong in a distillation, before hours are spent on it. Takes the same options as "
        "`distill`. Exits with 1 if it finds something.",
        "keras-distill check cache",
        "keras-distill check cache --teacher teacher.keras",
        "keras-distill check teacher.keras student.keras --dataset=train.npz",
        "keras-distill check teacher.keras student.keras --dataset=mnist --scale=1/255 --hint block_2:block_4",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a folder that `label` wrote; or two .keras files, teacher and student, read in Keras' safe mode",
    )
    parser.add_argument("--teacher", metavar="MODEL", help="of a cache: also check that it is of this teacher")
    add_dataset(parser, required=False)
    add_objective(parser)
    parser.add_argument(
        "--batches", type=positive_integer, default=8, metavar="N", help="how many are looked at; default 8"
    )
    add_import(parser)
    parser.set_defaults(run=run)


def run(options):
    if len(options.paths) > 2:
        options.error("check takes a cache, or a teacher and a student")
    if len(options.paths) == 1:
        if options.dataset is not None:
            options.error("the student is missing: check TEACHER STUDENT --dataset=SOURCE")
        return _check_cache(options, *options.paths)
    if options.dataset is None:
        options.error("two models are checked on data: --dataset=SOURCE")
    if options.teacher is not None:
        options.error("--teacher belongs to a cache")
    options.teacher, options.student = options.paths
    return _check_models(options)


def _check_cache(options, directory):
    from .reading import load

    teacher = None if options.teacher is None else load(options.teacher, options.modules)

    from keras_distill.cache import open_cache

    with as_command_error(f"cannot use {directory}"):
        stored = open_cache(directory, teacher)
        rows = [("tap", "shape", "dtype", "kept")]
        for tap, spec in stored.taps.items():
            kept = f"top {stored.tops[tap]}" if tap in stored.tops else "all"
            rows.append((tap, str(tuple(spec.shape)), spec.dtype.name, kept))
        print_table(rows)
        views = f" of {stored.views} views each" if stored.views > 1 else ""
        print(f"{stored.examples // stored.views:,} examples{views}")
        stored.verify(verbose=1)
    print("All is as it was written.")


def _check_models(options):
    with as_command_error("cannot check"):
        from .data import Data
        from .job import DistillationJob

        lesson = DistillationJob(options)
        material = Data(options, lesson)
        found = lesson.findings(material, options.batches)
    print(*found or [f"Nothing was found in up to {options.batches} batches."], sep="\n\n")
    return int(bool(found))
