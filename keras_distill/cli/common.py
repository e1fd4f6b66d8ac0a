"""What the commands share: how options are declared, and how tables look."""

import argparse
import contextlib
import importlib
import os
import re
import sys
import textwrap


class CommandError(Exception):
    """What the user asked for cannot be done; the text says why, and what to do."""


def start():
    """Imports the package, which takes seconds, without what TensorFlow says of itself meanwhile."""
    if "keras_distill" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    try:
        # From C++, where nothing else reaches it.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("keras_distill")
    except ImportError as error:
        raise CommandError(str(error)) from error
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def as_command_error(what):
    """Puts `what` before the error of a job that fails, such as "cannot label mnist"."""
    try:
        yield
    except (CommandError, BrokenPipeError):
        raise
    except Exception as error:
        # Keras, NumPy and TensorFlow raise errors of all kinds for a file that they cannot read.
        raise CommandError(f"{what}: {_reason(error)}") from error


def command(commands, name, summary, description, *examples, after=""):
    """The parser of a command; its help ends with examples."""
    epilog = "\n".join(["examples:", *(f"  {example}" for example in examples), *([after] if after else [])])
    texts = {"help": summary, "description": wrap_text(description), "epilog": epilog}
    parser = commands.add_parser(name, **texts, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(error=parser.error, goes_on=False)
    return parser


def wrap_text(text):
    """A text in lines, which argparse does not make where it leaves examples as they are."""
    return textwrap.fill(text, 100)


def add_import(parser):
    parser.add_argument(
        "--import",
        metavar="MODULE",
        dest="modules",
        action="append",
        default=[],
        help="import a module first, one that registers the model's own layers; may be repeated",
    )


def add_dataset(parser, required=True):
    parser.add_argument(
        "--dataset",
        required=required,
        metavar="SOURCE",
        help="a name of TensorFlow Datasets, a .npy or .npz file (x, y), or a folder: one that TensorFlow Datasets "
        "prepared, or one with a folder of pictures for each class",
    )
    parser.add_argument("--split", default="train", help="of a data set of TensorFlow Datasets; default train")
    parser.add_argument("--feature", help="which of its features are the inputs")
    parser.add_argument("--data-dir", metavar="DIR", help="where TensorFlow Datasets keeps its data sets")
    parser.add_argument(
        "--scale",
        type=fraction,
        default=1.0,
        metavar="NUMBER",
        help="what inputs are multiplied with, such as 1/255; default 1",
    )


def add_force(parser, what):
    parser.add_argument("--force", action="store_true", help=f"replace {what}, if it is there already")


def fraction(text):
    """A number, as an option has it."""
    try:
        over, _, under = text.partition("/")
        return float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, such as 0.5 or 1/255") from None


def positive_number(text):
    number = fraction(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def fraction_below_one(text):
    number = fraction(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1, less than 1")
    return number


def positive_integer(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def print_table(rows):
    """Rows of texts in columns, the last one to the right."""
    from keras_distill.utils.formatting import align_columns

    print(align_columns(rows, left=len(rows[0]) - 1))


def _reason(error):
    if isinstance(error, KeyError):
        return f"it has no {error}"
    # TensorFlow puts where in its graph something happened around what happened.
    text = re.split(r"\n\s*\[\[|\nTraceback|Detected at node", str(error))[0]
    return re.sub(r"\{\{.*?\}\}", "", text).strip() or type(error).__name__
