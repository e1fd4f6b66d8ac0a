"""The command `keras-distill`."""

import argparse
import importlib
import re
import sys

import keras

from keras_distill.cache import cached, label
from keras_distill.datasets import open_dataset
from keras_distill.inspection import tappable
from keras_distill.taps import OUTPUT

HEADINGS = ("tap", "shape", "layer", "parameters")


class Refused(Exception):
    """What the user asked for cannot be done; the text says why, and what to do."""


def main(arguments=None):
    """Runs the command and returns its exit status: 0, 1 if the job failed, 2 if it was asked for wrongly."""
    parser = argparse.ArgumentParser(prog="keras-distill", description="Knowledge distillation for Keras 3.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_inspect(commands)
    _add_label(commands)
    _add_check(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except Refused as error:
        # Some of Keras' errors have several lines.
        print(f"keras-distill: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has seen enough, as `head` does.
        sys.stdout = None
    except KeyboardInterrupt:
        print("\nkeras-distill: interrupted", file=sys.stderr)
        return 130
    return 0


def _add_inspect(commands):
    parser = _command(
        commands,
        "inspect",
        "list what of a model a Term can tap, with shapes",
        "Lists every activation of a saved model that a Term can tap, with its shape.",
        "keras-distill inspect teacher.keras",
        "keras-distill inspect teacher.keras --match 'block_*'",
        "keras-distill inspect bert.keras --import keras_hub",
    )
    parser.add_argument("model", metavar="MODEL", help="a .keras file; it is read in Keras' safe mode")
    parser.add_argument("--match", metavar="PATTERN", help="only taps that hold this; * stands for any letters")
    _add_import(parser)
    parser.set_defaults(run=_inspect)


def _add_label(commands):
    parser = _command(
        commands,
        "label",
        "run a teacher once over a data set and keep what it says",
        "Runs a teacher once over a data set and keeps its activations, for students that are trained without it. "
        "The size is shown before it starts. A run that was interrupted goes on when it is started again.",
        "keras-distill label teacher.keras --dataset=mnist --scale=1/255 --out=cache",
        "keras-distill label teacher.keras --dataset=train.npz --out=cache --tap=output --tap=block_3 --dtype=float16",
        "keras-distill label teacher.keras --dataset=pictures/ --out=cache --top-k=32",
        after="In Python: stored = keras_distill.cache.cached('cache'), and\n"
        "stored.join(keras_distill.datasets.open_dataset('mnist', scale=1 / 255)).",
    )
    parser.add_argument("teacher", metavar="TEACHER", help="a .keras file; it is read in Keras' safe mode")
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="SOURCE",
        help="a name of TensorFlow Datasets, a .npy or .npz file (x, y), or a folder: one that TensorFlow Datasets "
        "prepared, or one with a folder of pictures for each class",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where to keep it")
    parser.add_argument("--split", default="train", help="of a data set of TensorFlow Datasets; default train")
    parser.add_argument("--feature", help="which of its features are the inputs")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data sets")
    parser.add_argument(
        "--scale", type=_number, default=1.0, help="what inputs are multiplied with, such as 1/255; default 1"
    )
    parser.add_argument(
        "--tap",
        action="append",
        dest="taps",
        metavar="TAP",
        help="what to keep, as `inspect` lists it; may be repeated; default output",
    )
    parser.add_argument("--dtype", default="float32", help="float32, float16 or bfloat16; default float32")
    parser.add_argument("--top-k", type=int, help="keep only so many classes of the output, and the others' sum")
    parser.add_argument("--batch-size", type=int, default=128, help="examples that the teacher sees at once")
    _add_import(parser)
    parser.set_defaults(run=_label)


def _add_check(commands):
    parser = _command(
        commands,
        "check",
        "say what a cache holds, and whether it is whole",
        "Says what a cache holds, and reads all of it to see whether it is what was written.",
        "keras-distill check cache",
        "keras-distill check cache --teacher teacher.keras",
    )
    parser.add_argument("directory", metavar="DIR", help="what `label` wrote")
    parser.add_argument("--teacher", metavar="MODEL", help="also check that it is of this teacher")
    _add_import(parser)
    parser.set_defaults(run=_check)


def _command(commands, name, summary, description, *examples, after=""):
    epilog = "\n".join(["examples:", *(f"  {example}" for example in examples), *([after] if after else [])])
    raw = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, help=summary, description=description, epilog=epilog, formatter_class=raw)


def _add_import(parser):
    parser.add_argument(
        "--import",
        metavar="MODULE",
        dest="modules",
        action="append",
        default=[],
        help="import a module first, one that registers the model's own layers; may be repeated",
    )


def _number(text):
    try:
        over, _, under = text.partition("/")
        return float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, such as 0.5 or 1/255") from None


def _load(path, modules):
    try:
        # A command, unlike `python -m`, does not find the modules of the folder it is started in.
        sys.path.insert(0, "")
        for module in modules:
            importlib.import_module(module)
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        # Keras raises errors of many kinds for a file that it cannot read.
        raise Refused(f"cannot read {path}: {error}") from error


def _label(options):
    teacher = _load(options.teacher, options.modules)
    source = {"split": options.split, "feature": options.feature, "scale": options.scale, "data_dir": options.data_dir}
    try:
        dataset = open_dataset(options.dataset, **source, like=teacher)
        label(
            teacher,
            dataset,
            options.out,
            tuple(options.taps or [OUTPUT]),
            options.dtype,
            options.top_k,
            batch_size=options.batch_size,
        )
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise Refused(f"cannot label {options.dataset}: {error}") from error
    print(f"Written to {options.out}: keras_distill.cache.cached({options.out!r})")


def _check(options):
    teacher = None if options.teacher is None else _load(options.teacher, options.modules)
    try:
        stored = cached(options.directory, teacher)
        rows = [("tap", "shape", "dtype", "kept")]
        for tap, spec in stored.taps.items():
            kept = f"top {stored.tops[tap]}" if tap in stored.tops else "all"
            rows.append((tap, str(tuple(spec.shape)), spec.dtype.name, kept))
        _print_table(rows)
        views = f" of {stored.views} views each" if stored.views > 1 else ""
        print(f"{stored.examples // stored.views:,} examples{views}")
        stored.verify(verbose=1)
    except (ValueError, OSError) as error:
        raise Refused(f"cannot use {options.directory}: {error}") from error
    print("All is as it was written.")


def _inspect(options):
    try:
        found = tappable(_load(options.model, options.modules))
    except ValueError as error:
        raise Refused(f"cannot inspect {options.model}: {error}") from error
    if options.match:
        pattern = ".*".join(map(re.escape, options.match.split("*")))
        found = [entry for entry in found if re.search(pattern, entry.tap)]
        if not found:
            raise Refused(f"no tap of {options.model} holds '{options.match}'.")
    seen = [entry for entry in found if not entry.note]
    _print_table([HEADINGS, *((e.tap, str(e.shape), e.layer, f"{e.parameters:,}") for e in seen)])
    hidden = [entry for entry in found if entry.note]
    if hidden:
        print("\nCannot be tapped:")
        for entry in hidden:
            print(f"  '{entry.tap}' {entry.note}")


def _print_table(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    for *texts, number in rows:
        cells = [text.ljust(width) for text, width in zip(texts, widths)]
        print("  ".join([*cells, number.rjust(widths[-1])]))
