"""What the command does before and after a job: its arguments, its exit status, and what it says if a job fails."""

import argparse
import contextlib
import signal
import sys
import textwrap
import threading
import warnings

from . import check, distill, export, inspect, label, report
from .common import CommandError, start

# EX_TEMPFAIL of sysexits.h, as `keras_distill.callbacks.backup.EXIT_PREEMPTED`.
EXIT_PREEMPTED = 75
STATUS = """exit status:
  0    done
  1    the job failed, as stderr says; or `check` has found something
  2    it was asked for wrongly
  75   label and distill were stopped by SIGTERM; the same command goes on
  130  interrupted from the keyboard; the same command goes on"""


def main(arguments=None):
    """Runs the command and returns its exit status: 0, 1 if the job failed, 2 if it was asked for wrongly."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="keras-distill",
        description="Knowledge distillation for Keras 3: a small student learns from a large teacher.",
        epilog=f"`keras-distill COMMAND --help` shows how, with examples.\n\n{STATUS}",
        formatter_class=raw,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (inspect, check, label, distill, export, report):
        command.add(commands)
    options = parser.parse_args(arguments)
    options.command = ["keras-distill", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        with _quiet(), _stopping() if options.goes_on else contextlib.nullcontext():
            start()
            return options.run(options) or 0
    except CommandError as error:
        # Some of Keras' errors have several lines, and more of them than anybody reads.
        print(f"keras-distill: {textwrap.shorten(str(error), 600, placeholder=' ...')}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has seen enough, as `head` does.
        sys.stdout = None
    except KeyboardInterrupt:
        goes_on = " The same command goes on." if options.goes_on else ""
        print(f"\nkeras-distill: interrupted.{goes_on}", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _quiet():
    """Warnings are a line each, and TensorFlow says nothing of its own business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.showwarning = _warn
        yield


def _warn(message, category, filename, line, file=None, text=None):
    print(f"keras-distill: warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextlib.contextmanager
def _stopping():
    """On SIGTERM the process exits with `STOPPED`, and what is being written is written or not there."""

    def stop(number, frame):
        raise SystemExit(EXIT_PREEMPTED)

    # Python lets no other thread.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
