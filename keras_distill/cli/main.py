"""Entry point of the command line: parsing, exit status, signals and error output."""

import argparse
import contextlib
import os
import pathlib
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from . import check, config, distill, export, inspect, label, report, student
from .common import CommandError, Commands, Parser, did_you_mean, load_package

# EX_TEMPFAIL of sysexits.h. Equal to `keras_distill.callbacks.EXIT_PREEMPTED`, whose import would import TensorFlow.
EXIT_PREEMPTED = 75
STATUS = """exit status:
  0    success
  1    the command failed (see the error on stderr)
  2    invalid command line
  3    `check` found problems
  75   `label` or `distill` was stopped by SIGTERM; rerun the same command to resume
  130  interrupted from the keyboard (Ctrl-C); `label` and `distill` resume when rerun"""


class _StoppedError(SystemExit):
    """SIGTERM outside of `fit`, where `Backup` handles it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: Command-line arguments without the program's name. Defaults to `sys.argv[1:]`.

    Returns:
        0 after success, 1 if the command failed, 3 if `check` found problems, 130 after an interrupt from the
        keyboard.

    Raises:
        SystemExit: With status 2 for an invalid command line, 0 after `--help` and `--version`, and 75 after SIGTERM.
    """
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    except CommandError as error:
        return _fail(error, verbose=False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_one_line_warnings())
            if options.resumable:
                stack.enter_context(_exit_on_sigterm())
            if options.quiet:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            load_package()
            return options.run(options) or 0
    except CommandError as error:
        return _fail(error, options.verbose)
    except _StoppedError:
        print("keras-distill: stopped by SIGTERM. Rerun the same command to resume.", file=sys.stderr)
        raise
    except BrokenPipeError:
        # The reader of the pipe has closed it, as `head` does. Python would fail again when it flushes stdout at exit.
        sys.stdout = None
    except KeyboardInterrupt:
        remedy = " Rerun the same command to resume." if options.resumable else ""
        print(f"\nkeras-distill: interrupted.{remedy}", file=sys.stderr)
        return 130
    return 0


def _fail(error: CommandError, verbose: bool) -> int:
    """Print an error, and return the exit status."""
    if verbose:
        traceback.print_exception(error)
    # Some errors of Keras and TensorFlow have several lines. The remedy may be in the last one.
    text = str(error) if verbose else re.sub(r"\b([0-9a-f]{6})[0-9a-f]{26,}\b", r"\1...", str(error))
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    print("\n  ".join([f"keras-distill: error: {lines[0]}", *lines[1:]]), file=sys.stderr)
    return 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, commands = make_parser()
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(2)
    name, *rest = arguments
    if name.startswith("-"):
        parser.check_options([name])
    elif name in commands.choices:
        rest = config.expand(rest, commands.choices[name])
        commands.choices[name].check_options(rest)
    else:
        suggestion = did_you_mean(name, commands.choices) or f" Choose one of {', '.join(commands.choices)}."
        parser.error(f"unknown command '{name}'.{suggestion}")
    options, unexpected = parser.parse_known_args([name, *rest])
    if unexpected:
        options.error(f"unexpected argument '{unexpected[0]}'")
    options.command = shlex.join(["keras-distill", *arguments])
    return options


def make_parser() -> tuple[Parser, Commands]:
    """Return the parser of the program, and the object that holds those of its commands in `choices`."""
    parser = Parser(
        prog="keras-distill",
        usage="keras-distill COMMAND [options]",
        description="Knowledge distillation for Keras 3: train a small student model to match a large teacher model.",
        epilog=f"`keras-distill COMMAND --help` describes a command, with examples.\n\n{STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"keras-distill {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog="keras-distill")
    for command in (inspect, check, student, label, distill, export, report):
        command.add(commands)
    return parser, commands


def _version() -> str:
    # Read as text, since importing the package imports TensorFlow. The metadata of an installed distribution may be
    # those of another version than a source tree that is run in its place.
    text = (pathlib.Path(__file__).parent.parent / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)[1]


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print each warning on one line, and ignore warnings of deprecated APIs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.showwarning = _print_warning
        yield


def _print_warning(message: Warning | str, *location: Any) -> None:
    print(f"keras-distill: warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit with `EXIT_PREEMPTED` on SIGTERM. Files are written atomically, so none is left incomplete."""

    def stop(number, frame):
        # Nothing is printed here: Python may be in the middle of printing.
        raise _StoppedError(EXIT_PREEMPTED)

    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
