"""Command `keras-distill export`."""

import argparse
import pathlib
import sys
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
    did_you_mean,
    load_package,
    print_table,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_distill.compression import Profile
    from keras_distill.compression.exporting import Exported

HEADINGS = ("format", "file", "difference", "agreement")
EXAMPLES = 256


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "export",
        usage="MODEL --dataset=SOURCE --out=DIR [options]",
        summary="export a model for deployment, and compare each file with the model",
        description="Export a model to several formats, run each file with its own runtime, and compare its outputs "
        f"with the model's on up to {EXAMPLES} examples from the whole dataset. The first table has the mean absolute "
        "difference of the outputs, in units of their standard deviation, and the fraction of examples with the same "
        "predicted class. The second table is a profile of each file: size, parameters (tied weights counted once), "
        "multiply-adds per example, latency of one prediction in milliseconds (median and 95th percentile) and peak "
        "memory.",
        examples=(
            "keras-distill export student.keras --out=files --dataset=train.npz",
            "keras-distill export student.keras --out=files --dataset=mnist --scale=1/255 --format=litert_int8",
            "keras-distill export student.keras --out=files --dataset=test.npz --name=digits --force",
        ),
        notes="\nlitert_int8 is calibrated on the same examples: pass training data.",
    )
    parser.add_argument("model", metavar="MODEL", help=".keras file, loaded in Keras' safe mode")
    add_dataset(parser)
    output = add_output(parser, metavar="DIR", help="directory of the exported files")
    output.add_argument(
        "--format",
        action="append",
        dest="formats",
        metavar="FORMAT",
        help="format to export to, or an alias such as tflite or int8; may be repeated (default: keras, saved_model, "
        "litert_float32 and litert_int8)",
    )
    output.add_argument("--list-formats", action=_ListFormats, nargs=0, help="list all formats and exit")
    output.add_argument("--name", help="base name of the files (default: that of MODEL)")
    add_force(output, "the exported files")
    add_import(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export a model and print how its files compare."""
    from .reading import examples, load

    model = load(options.model, options.modules)

    from keras_distill.compression import profiling
    from keras_distill.compression.exporting import USUAL, path_of

    formats = export_formats(options, "--format", options.formats) or list(USUAL)
    name = options.name or pathlib.Path(options.model).stem
    existing = [path for path in (path_of(options.out, name, each) for each in formats) if path.exists()]
    if existing and not options.force:
        raise CommandError(f"{existing[0]} already exists. Choose another --out or --name, or replace it with --force.")
    with as_command_error(f"cannot export {options.model}"):
        exported, errors = _export(model, options.out, name, formats, sample_inputs(examples(options, model)))
    if exported:
        print_table([HEADINGS, *((file.format, str(file.path), *_agreement(file)) for file, _ in exported)])
        print(f"\n{profiling.format_profiles([profile for _, profile in exported])}")
    if errors:
        print(*errors, sep="\n", file=sys.stderr)
        raise CommandError(f"{len(errors)} of {len(formats)} formats failed.")


def sample_inputs(dataset: "tf.data.Dataset") -> "np.ndarray":
    """Return inputs from the whole dataset, since the first ones may all be of one class."""
    import numpy as np

    from keras_distill.experiment.data import as_examples

    examples = as_examples(dataset)
    count = len(examples)
    return examples.inputs(np.linspace(0, count - 1, min(count, EXAMPLES)).round().astype(int))


def _export(
    model: "keras.Model", directory: str, name: str, formats: list[str], inputs: "np.ndarray"
) -> "tuple[list[tuple[Exported, Profile]], list[str]]":
    """Export and profile each format; return the files, and an error line for each format that failed."""
    from keras_distill.compression import export, profile
    from keras_distill.utils.files import name_file

    exported, errors = [], []
    for each in formats:
        try:
            (file,) = export(model, directory, inputs, [each], name)
            exported.append((file, profile(model, file, inputs)))
        except OSError as error:
            # A full disk fails all formats.
            name_file(error, directory)
            raise
        except (ValueError, RuntimeError, ImportError) as error:
            errors.append(f"keras-distill: error: {each}: {' '.join(str(error).split())}")
    return exported, errors


def export_formats(options: argparse.Namespace, option: str, names: "list[str] | None") -> list[str]:
    """Return formats by their names or aliases, without duplicates; exits with a usage error for an unknown one.

    Args:
        options: Options of the command.
        option: Name of the option, for the error.
        names: Names of formats, or None.
    """
    from keras_distill.compression.exporting import ALIASES, FORMATS, check_formats

    for name in names or []:
        try:
            check_formats([name], option)
        except ValueError:
            suggestion = did_you_mean(name.lower().replace("-", "_"), [*FORMATS, *ALIASES])
            options.error(f"{option} must be one of {', '.join(FORMATS)}, got {name}.{suggestion}")
    return check_formats(names or [], option)


def _agreement(file: "Exported") -> tuple[str, str]:
    return f"{file.difference:.2g}", f"{file.agreement:.1%}"


class _ListFormats(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        load_package()
        from keras_distill.compression.exporting import ALIASES, FORMATS

        names = {format: [alias for alias in ALIASES if ALIASES[alias] == format] for format in FORMATS}
        print("\n".join(f"{format} ({', '.join(aliases)})" if aliases else format for format, aliases in names.items()))
        parser.exit()
