"""keras-distill export"""

import argparse
import pathlib
import sys

from .common import CommandError, add_dataset, add_force, add_import, as_command_error, command, print_table, start

HEADINGS = ("format", "file", "difference", "agreement")
EXAMPLES = 256


def add(commands):
    parser = command(
        commands,
        "export",
        "write a student as files for devices, and compare them with it",
        "Writes a model in other formats, runs each file by its own runtime, and compares what it says with the model "
        f"on {EXAMPLES} examples from all over the data set. One table shows the mean difference of the outputs, in "
        "units of their standard deviation, and the share of examples that get the same class; the other one what "
        "each file costs: bytes, parameters (shared ones once), multiply-adds of one example, milliseconds of one "
        "prediction (the median, and what 95 of 100 take at most) and the memory that it adds to its runtime.",
        "keras-distill export student.keras --out=files --dataset=train.npz",
        "keras-distill export student.keras --out=files --dataset=mnist --scale=1/255 --format=litert_int8",
        "keras-distill export student.keras --out=files --dataset=test.npz --name=digits --force",
        after="\nThe files of litert_int8 are made for the ranges that these examples come to: take them from the "
        "training data.",
    )
    parser.add_argument("model", metavar="MODEL", help="a .keras file; it is read in Keras' safe mode")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write them")
    parser.add_argument(
        "--format",
        action="append",
        dest="formats",
        metavar="FORMAT",
        help="which one; may be repeated; default the usual ones",
    )
    parser.add_argument("--list-formats", action=_List, nargs=0, help="name the formats, and exit")
    parser.add_argument("--name", help="of the files; default MODEL's")
    add_dataset(parser)
    add_force(parser, "files")
    add_import(parser)
    parser.set_defaults(run=run)


def run(options):
    from .reading import examples, load

    model = load(options.model, options.modules)

    from keras_distill.compression import profiling
    from keras_distill.compression.exporting import FORMATS, USUAL, path_of

    formats = list(dict.fromkeys(options.formats or USUAL))
    unknown = [each for each in formats if each not in FORMATS]
    if unknown:
        options.error(f"there are the formats {', '.join(FORMATS)}, not {', '.join(unknown)}")
    name = options.name or pathlib.Path(options.model).stem
    there = [path for path in (path_of(options.out, name, each) for each in formats) if path.exists()]
    if there and not options.force:
        raise CommandError(f"{there[0]} is there already. Choose another --out or --name, or replace it with --force.")
    with as_command_error(f"cannot export {options.model}"):
        found, faults = _exported(model, options.out, name, formats, _some(examples(options, model)))
    if found:
        print_table([HEADINGS, *((one.format, str(one.path), *_likeness(one)) for one, _ in found)])
        print(f"\n{profiling.format_profiles([costs for _, costs in found])}")
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        raise CommandError(f"{len(faults)} of {len(formats)} formats failed.")


def _some(dataset):
    """Inputs from all over a data set, an array: the first ones might all be of one class."""
    import numpy as np

    count = int(dataset.cardinality())
    some = dataset.shard(max(count // EXAMPLES, 1), 0).take(EXAMPLES).as_numpy_iterator()
    inputs = [element[0] if isinstance(element, tuple) else element for element in some]
    if not inputs:
        raise CommandError("the data set holds no example.")
    return np.stack(inputs)


def _exported(model, folder, name, formats, inputs):
    """`[(Exported, Footprint)]`, and why other formats failed."""
    from keras_distill.compression import export, profile

    found, faults = [], []
    for each in formats:
        try:
            (one,) = export(model, folder, inputs, [each], name)
            found.append((one, profile(model, one, inputs)))
        except (ValueError, RuntimeError, ImportError) as error:
            faults.append(f"keras-distill: {each}: {' '.join(str(error).split())}")
    return found, faults


def _likeness(one):
    return f"{one.difference:.2g}", f"{one.agreement:.1%}"


class _List(argparse.Action):
    def __call__(self, parser, *arguments):
        start()
        from keras_distill.compression.exporting import FORMATS

        print("\n".join(FORMATS))
        parser.exit()
