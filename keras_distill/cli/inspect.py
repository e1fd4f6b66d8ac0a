"""Command `keras-distill inspect`."""

import argparse
import re

from .common import CommandError, Commands, add_command, add_import, as_command_error, print_table

HEADINGS = ("tap", "shape", "stage", "layer", "parameters")


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "inspect",
        usage="MODEL [options]",
        summary="list the activations of a model that a Term can tap",
        description="List every activation of a saved model that a Term can tap, with its shape, layer class and "
        "number of parameters, and the stage of feature maps: those of one resolution, one after the other. The names "
        "are those that `label --tap` and `distill --hint` take. Layers that cannot be tapped are listed with the "
        "reason.",
        examples=(
            "keras-distill inspect teacher.keras",
            "keras-distill inspect teacher.keras --match 'block_*'",
            "keras-distill inspect resnet.keras --stages",
            "keras-distill inspect bert.keras --import keras_hub",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help=".keras file, loaded in Keras' safe mode")
    parser.add_argument(
        "--match",
        metavar="PATTERN",
        help="only list taps that contain this text; * matches any characters (default: list all)",
    )
    parser.add_argument(
        "--stages",
        action="store_true",
        help="only list the last activation of each stage, which feature losses usually compare",
    )
    add_import(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the taps of a model."""
    from .reading import load

    model = load(options.model, options.modules)

    from keras_distill.models.inspection import tappable

    with as_command_error(f"cannot inspect {options.model}"):
        entries = tappable(model)
    if options.match:
        pattern = ".*".join(map(re.escape, options.match.split("*")))
        entries = [entry for entry in entries if re.search(pattern, entry.tap)]
        if not entries:
            raise CommandError(
                f"no tap of {options.model} matches '{options.match}'. Run `keras-distill inspect {options.model}` to "
                "list all."
            )
    if options.stages:
        entries = [entry for entry in entries if entry.last]
        if not entries:
            raise CommandError(f"{options.model} has no feature maps of known size. Run the command without --stages.")
    visible = [entry for entry in entries if not entry.note]
    rows = [HEADINGS, *((e.tap, str(e.shape), _stage(e), e.layer, f"{e.parameters:,}") for e in visible)]
    if not any(entry.stage for entry in visible):
        rows = [(tap, shape, *others) for tap, shape, _, *others in rows]
    print_table(rows)
    hidden = [entry for entry in entries if entry.note]
    if hidden:
        print("\nCannot be tapped:")
        for entry in hidden:
            print(f"  '{entry.tap}' {entry.note}")


def _stage(entry):
    """Return the text of the column "stage", such as "2" or "2, last"."""
    return f"{entry.stage or ''}{', last' * entry.last}"
