"""Command `keras-distill student`."""

import argparse
import pathlib
import shlex
from typing import TYPE_CHECKING

from .argument_types import random_seed
from .common import (
    CommandError,
    Commands,
    add_command,
    add_import,
    add_output,
    as_command_error,
    fraction_to_one,
    print_table,
)

if TYPE_CHECKING:
    import keras

HEADINGS = ("model", "file", "parameters", "size", "smaller by")


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "student",
        usage="TEACHER --out=FILE [--width=FACTOR] [--depth=FRACTION] [options]",
        summary="make a smaller, untrained student from a teacher",
        description="Write a student of the same architecture as a teacher, with narrower layers and fewer repeated "
        "blocks. Inputs, outputs, preprocessing and the names of layers stay the same. The number of parameters "
        "shrinks to about WIDTH * WIDTH * DEPTH of the teacher's, and less in layers next to inputs and outputs.",
        examples=(
            "keras-distill student teacher.keras --width=0.5 --out=student.keras",
            "keras-distill student teacher.keras --depth=0.5 --copy-weights --out=student.keras",
            "keras-distill student bert.keras --width=0.5 --depth=0.5 --import keras_hub --out=student.keras",
        ),
    )
    parser.add_argument("teacher", metavar="TEACHER", help=".keras file, loaded in Keras' safe mode")
    group = parser.add_argument_group("size")
    group.add_argument(
        "--width",
        type=fraction_to_one,
        default=1.0,
        metavar="FACTOR",
        help="factor of units, filters, channels and attention heads, in (0, 1] (default: 1)",
    )
    group.add_argument(
        "--depth",
        type=fraction_to_one,
        default=1.0,
        metavar="FRACTION",
        help="fraction of repeated blocks to keep, in (0, 1]; 0.5 leaves out every second one (default: 1)",
    )
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--copy-weights",
        action="store_true",
        help="initialize the student from the teacher: the blocks that are kept, the first units of each layer "
        "(default: random weights)",
    )
    weights.add_argument(
        "--seed",
        type=random_seed,
        default=0,
        metavar="N",
        help="seed of the random weights, an integer >= 0 (default: 0)",
    )
    output = add_output(parser, metavar="FILE", help=".keras file of the student")
    output.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_import(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write a student, and print its size."""
    out = pathlib.Path(options.out)
    if out.suffix != ".keras":
        options.error(f"--out must end in .keras, got {options.out}")
    if options.width == options.depth == 1:
        options.error("--width or --depth must be less than 1, such as --width=0.5")
    _check_free(options, out)

    from .reading import load

    teacher = load(options.teacher, options.modules)

    import keras

    from keras_distill.compression import shrink
    from keras_distill.saving.load import save_model

    keras.utils.set_random_seed(options.seed)
    with as_command_error(f"cannot shrink {options.teacher}"):
        student = shrink(teacher, options.width, options.depth, copy=options.copy_weights)
    with as_command_error(f"cannot write {options.out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        save_model(student, out)
    _print_sizes(teacher, pathlib.Path(options.teacher), student, out)
    arguments = ["keras-distill", "distill", options.teacher, options.out, "--dataset=SOURCE", "--out=run"]
    arguments += [argument for module in options.modules for argument in ("--import", module)]
    print(f"\nTrain the student; SOURCE is {_suitable_source(teacher, pathlib.Path(options.teacher))}:")
    print(f"    {shlex.join(arguments)}")


def _suitable_source(model: "keras.Model", path: pathlib.Path) -> str:
    import keras

    from .texts import is_preset

    if is_preset(path):
        return "a file of texts, .txt with a text per line or .jsonl with prompts and responses"
    if [len(each.shape) for each in keras.tree.flatten(model.inputs)] == [4]:
        return "a dataset, such as a directory with a subdirectory of images per class"
    return "a dataset, such as an .npz file with the arrays x and y"


def _check_free(options: argparse.Namespace, out: pathlib.Path) -> None:
    if not out.exists():
        return
    if out.is_dir():
        raise CommandError(f"{out} is a directory. Choose a file name for --out.")
    if pathlib.Path(options.teacher).exists() and out.samefile(options.teacher):
        raise CommandError(f"--out is the teacher, {out}. Choose another file name.")
    if not options.force:
        raise CommandError(f"{out} already exists. Choose another --out, or replace it with --force.")


def _print_sizes(
    teacher: "keras.Model", teacher_path: pathlib.Path, student: "keras.Model", student_path: pathlib.Path
) -> None:
    from keras_distill.compression.exporting import size
    from keras_distill.compression.profiling import count_parameters
    from keras_distill.utils.formatting import format_size

    total = count_parameters(teacher)
    rows = []
    for role, model, path in (("teacher", teacher, teacher_path), ("student", student, student_path)):
        parameters = count_parameters(model)
        rows.append((role, str(path), f"{parameters:,}", format_size(size(path)), f"{total / parameters:.1f}x"))
    print_table([HEADINGS, *rows])
