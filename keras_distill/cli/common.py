"""Shared parts of the commands: parsers, argument types, errors and tables."""

import argparse
import contextlib
import difflib
import importlib
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, TypeAlias

from .argument_types import finite_number, positive_integer

# The object that `add_subparsers` returns; argparse has no public name for its class.
Commands: TypeAlias = Any


class CommandError(Exception):
    """Error that a command reports to the user: the reason, then the remedy."""


class Parser(argparse.ArgumentParser):
    """Argument parser that prints errors before the usage and suggests close option names."""

    def error(self, message: str) -> NoReturn:
        """Print an error, the usage and a hint at `--help`, and exit with status 2.

        Args:
            message: The reason, as argparse or a type of this module gives it.
        """
        # "argument --alpha: must be ..." reads better as "--alpha must be ...".
        message = re.sub(
            r"^argument (.*?): (must )?", lambda match: match[1] + (" must " if match[2] else ": "), message
        )
        hint = f"Run `{self.prog} --help` for all options and examples."
        self.exit(2, f"{self.prog}: error: {message}\n\n{self.format_usage()}{hint}\n")

    def option_names(self) -> list[str]:
        """Return the names of all options, such as "--alpha" and "-v"."""
        # The help names every option; argparse has no public list of them.
        return re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", self.format_help())

    def check_options(self, arguments: Iterable[str]) -> None:
        """Exit with a usage error for the first option that does not exist.

        argparse reports missing arguments first, which a misspelt option of the same name may be the cause of.

        Args:
            arguments: Command-line arguments of this parser.
        """
        known = self.option_names()
        for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
            name = argument.partition("=")[0]
            # Negative numbers are values. Abbreviations of options are allowed.
            if re.match("--?[A-Za-z]", name) and not any(option.startswith(name) for option in known):
                self.error(f"unknown option '{name}'.{did_you_mean(name, known)}")


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'NAME'?" for the name closest to a misspelt word, or "" if none is close."""
    closest = difflib.get_close_matches(word, list(names), n=1)
    return f" Did you mean '{closest[0]}'?" if closest else ""


def load_package() -> None:
    """Import keras_distill, which takes seconds, without TensorFlow's messages at import.

    Raises:
        CommandError: If the package cannot be imported, e.g. with another backend of Keras.
    """
    if "keras_distill" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    try:
        # C++ code writes these messages to the file descriptor, past `sys.stderr`.
        with open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), 2)
        importlib.import_module("keras_distill")
    except ImportError as error:
        raise CommandError(str(error)) from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextlib.contextmanager
def as_command_error(prefix: str) -> Iterator[None]:
    """Turn any exception of the block into a `CommandError`.

    Args:
        prefix: Start of the message, such as "cannot label mnist".
    """
    try:
        yield
    except (CommandError, BrokenPipeError):
        raise
    except Exception as error:
        # Keras, NumPy and TensorFlow raise exceptions of many classes for files that they cannot read.
        raise CommandError(f"{prefix}: {_reason(error)}") from error


def add_command(
    commands: Commands, name: str, usage: str, summary: str, description: str, examples: Sequence[str], notes: str = ""
) -> Parser:
    """Return a new parser for one command, whose help ends with examples.

    Args:
        commands: Returned by `add_subparsers`.
        name: Name of the command.
        usage: Its required arguments, e.g. "MODEL [options]".
        summary: One line for the list of commands.
        description: Two or three sentences for the help of the command.
        examples: Complete command lines.
        notes: Text after the examples, printed as it is.
    """
    parser = commands.add_parser(
        name,
        usage=f"keras-distill {name} {usage}",
        help=summary,
        description=wrap_text(description),
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples), *([notes] if notes else [])]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print whole fingerprints and the traceback of an error"
    )
    parser.set_defaults(error=parser.error, resumable=False)
    return parser


def wrap_text(text: str) -> str:
    """Return a text in lines; argparse does not wrap it where it leaves examples as they are."""
    return textwrap.fill(text, 100)


def add_import(parser: Parser) -> None:
    """Add `--import`."""
    parser.add_argument(
        "--import",
        metavar="MODULE",
        dest="modules",
        action="append",
        default=[],
        help="import this module first, to register custom layers of the model; may be repeated",
    )


def add_dataset(parser: Parser, required: bool = True) -> Any:
    """Add the options that choose the dataset, and return their group."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        required=required,
        metavar="SOURCE",
        help="TensorFlow Datasets name, .npy file (inputs), .npz file (arrays x and, optionally, y), or directory: "
        "either prepared by TensorFlow Datasets, or of images without labels, or with one subdirectory of images per "
        "class, which are resized; "
        "their names in alphabetical order are the classes 0, 1, ...; for language models, a .txt file with a text in "
        'each line, or a .jsonl file with {"prompt": ..., "response": ...} or {"text": ...} in each line',
    )
    group.add_argument(
        "--split", default="train", help="split of a TensorFlow Datasets dataset, e.g. train or test (default: train)"
    )
    group.add_argument(
        "--feature",
        metavar="NAME",
        help="feature of a TensorFlow Datasets dataset that is the model's input (default: its supervised input)",
    )
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        help="directory of TensorFlow Datasets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    group.add_argument(
        "--scale",
        type=finite_number,
        default=1.0,
        metavar="FACTOR",
        help="multiply inputs by this factor, e.g. 1/255 for uint8 images, unless the model rescales its inputs itself "
        "(default: 1)",
    )
    group.add_argument(
        "--sequence-length",
        type=positive_integer,
        metavar="TOKENS",
        help="tokens of a text of a .txt or .jsonl file; longer ones are truncated (default: that of the preset)",
    )
    return group


def add_output(parser: Parser, required: bool = True, **options: Any) -> Any:
    """Add `--out` to a new group of options, and return the group.

    Args:
        parser: Parser of the command.
        required: Whether `--out` must be given.
        **options: Metavar and help of `--out`, as for `add_argument`.
    """
    group = parser.add_argument_group("output")
    group.add_argument("--out", required=required, **options)
    return group


def add_force(group: Any, files: str) -> None:
    """Add `--force`, with the files it replaces in its help."""
    group.add_argument("--force", action="store_true", help=f"replace {files} if they exist")


def fraction_to_one(text: str) -> float:
    """Return a number in (0, 1]."""
    number = finite_number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], got {text}")
    return number


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of strings in columns, the last one aligned to the right."""
    from keras_distill.utils.formatting import align_columns

    print(align_columns(rows, left=len(rows[0]) - 1))


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"missing entry {error}"
    # TensorFlow surrounds the reason with locations in its graph, some before it and some after it.
    text = re.split(r"\n\s*\[\[|\nTraceback", str(error))[0]
    text = re.sub(r"^(Graph execution error:|Detected at node .*|<stack traces.*|\s+File \".*)$", "", text, flags=re.M)
    text = re.sub(r"\{\{.*?\}\}|\s*\[Op:\w+\]( name: ?)?|Error in user-defined function .*? iterator: \S+: ", "", text)
    return text.strip() or type(error).__name__
