"""The command `keras-distill`."""

import argparse
import importlib
import re
import sys

import keras

from keras_distill.inspection import tappable

HEADINGS = ("tap", "shape", "layer", "parameters")


class Refused(Exception):
    """What the user asked for cannot be done; the text says why, and what to do."""


def main(arguments=None):
    """Runs the command and returns its exit status: 0, 1 if the job failed, 2 if it was asked for wrongly."""
    parser = argparse.ArgumentParser(prog="keras-distill", description="Knowledge distillation for Keras 3.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_inspect(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except Refused as error:
        print(f"keras-distill: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has seen enough, as `head` does.
        sys.stdout = None
    return 0


def _add_inspect(commands):
    parser = commands.add_parser(
        "inspect",
        help="list what of a model a Term can tap, with shapes",
        description="Lists every activation of a saved model that a Term can tap, with its shape.",
        epilog="examples:\n"
        "  keras-distill inspect teacher.keras\n"
        "  keras-distill inspect teacher.keras --match 'block_*'\n"
        "  keras-distill inspect bert.keras --import keras_hub",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a .keras file; it is read in Keras' safe mode")
    parser.add_argument("--match", metavar="PATTERN", help="only taps that hold this; * stands for any letters")
    parser.add_argument(
        "--import",
        metavar="MODULE",
        dest="modules",
        action="append",
        default=[],
        help="import a module first, one that registers the model's own layers; may be repeated",
    )
    parser.set_defaults(run=_inspect)


def _inspect(options):
    try:
        # A command, unlike `python -m`, does not find the modules of the folder it is started in.
        sys.path.insert(0, "")
        for module in options.modules:
            importlib.import_module(module)
        model = keras.saving.load_model(options.model, compile=False)
        found = tappable(model)
    except Exception as error:
        # Keras raises errors of many kinds for a file that it cannot read.
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
