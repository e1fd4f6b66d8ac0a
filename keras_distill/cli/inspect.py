"""keras-distill inspect"""

import re

from .common import CommandError, add_import, as_command_error, command, print_table

HEADINGS = ("tap", "shape", "layer", "parameters")


def add(commands):
    parser = command(
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
    add_import(parser)
    parser.set_defaults(run=run)


def run(options):
    from .reading import load

    model = load(options.model, options.modules)

    from keras_distill.models.inspection import tappable

    with as_command_error(f"cannot inspect {options.model}"):
        found = tappable(model)
    if options.match:
        pattern = ".*".join(map(re.escape, options.match.split("*")))
        found = [entry for entry in found if re.search(pattern, entry.tap)]
        if not found:
            raise CommandError(f"no tap of {options.model} holds '{options.match}'.")
    seen = [entry for entry in found if not entry.note]
    print_table([HEADINGS, *((e.tap, str(e.shape), e.layer, f"{e.parameters:,}") for e in seen)])
    hidden = [entry for entry in found if entry.note]
    if hidden:
        print("\nCannot be tapped:")
        for entry in hidden:
            print(f"  '{entry.tap}' {entry.note}")
