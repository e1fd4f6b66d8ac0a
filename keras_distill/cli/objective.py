"""Options of `check` and `distill` for the loss and the optimization."""

import argparse
import functools
import re
from typing import Any, NamedTuple

from .argument_types import (
    fraction_below_one,
    fraction_between,
    name_and_settings,
    number_of_epochs,
    positive_integer,
    positive_number,
    random_seed,
    softmax_temperature,
)
from .common import Parser, load_package, wrap_text

# Shortcuts for losses of two intermediate activations: option, class in `keras_distill.losses`, help.
FEATURES = {
    "hint": ("Hint", "mean squared error of two activations"),
    "cosine": ("CosineSimilarity", "cosine distance of two activations, e.g. hidden states"),
    "attention-transfer": ("AttentionTransfer", "attention transfer (AT) between two convolutional feature maps"),
    "similarity": ("SimilarityPreserving", "similarity-preserving loss (SP) of two activations"),
}
TASKS = ("classification", "multilabel", "regression", "segmentation", "language")
OPTIMIZERS = ("adam", "adamw", "lion", "nadam", "rmsprop", "sgd")


class LossOption(NamedTuple):
    """Comparison of two activations, as an option gives it.

    Attributes:
        loss: Name of a class in `keras_distill.losses`.
        settings: Arguments of the class.
        student: Tap of the student, or a pattern of layers if it contains a `*`; None for the output.
        teacher: Tap or pattern of the teacher; None for the output.
        weight: Weight of the term, > 0; None for the default, 1 - alpha between outputs and 1 between layers.
    """

    loss: str
    settings: dict[str, Any]
    student: str | None
    teacher: str | None
    weight: float | None

    def __str__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        parts = [f"{self.loss}({arguments})" if arguments else self.loss, self.student, self.teacher]
        return ":".join([part for part in parts if part] + ([] if self.weight is None else [f"{self.weight:g}"]))


def add_objective(parser: Parser) -> None:
    """Add the options of the loss in a new group."""
    group = parser.add_argument_group(
        "objective",
        wrap_text(
            "For classifiers, the loss is A * crossentropy(labels, student) + (1 - A) * T^2 * KL(teacher || student), "
            "both softened with temperature T, plus WEIGHT * loss for each pair of intermediate activations. STUDENT "
            "and TEACHER are taps as listed by `inspect`, or patterns of layers such as 'block_*', which are paired "
            "evenly by depth. Where shapes differ, a head is trained that maps the student's activation to the "
            "teacher's shape."
        ),
    )
    group.add_argument(
        "--task",
        choices=TASKS,
        help="what the models predict (default: inferred from the models' outputs and the labels)",
    )
    group.add_argument(
        "--ignore-class",
        type=int,
        metavar="N",
        help="class index of pixels or tokens that do not count, e.g. 255 (default: none)",
    )
    group.add_argument(
        "--temperature",
        type=softmax_temperature,
        default=1.0,
        metavar="T",
        help="softmax temperature, from 0.001 to 10000; 1 to 4 is typical (default: 1)",
    )
    group.add_argument(
        "--alpha",
        type=fraction_below_one,
        default=0.5,
        metavar="A",
        help="weight of the labels, in [0, 1); the teacher has 1 - A (default: 0.5)",
    )
    group.add_argument(
        "--loss",
        action="append",
        dest="losses",
        default=[],
        type=_loss,
        metavar="LOSS[:STUDENT:TEACHER][:WEIGHT]",
        help="loss of the catalog, e.g. 'DecoupledKD(alpha=1, beta=8)' between the outputs, in place of KL, or "
        "'AttentionTransfer:block_2:block_4:50' between layers; may be repeated",
    )
    group.add_argument(
        "--transfer",
        metavar="AUGMENTATION|SOURCE",
        help="further examples that the teacher labels: new ones made from those of --dataset by Mixup, CutMix, Crops "
        "or Shifts (images), Munge (tables), WordDrop or Recombination (texts), with settings such as "
        "'Crops(area=0.6)'; or another dataset, without labels (default: none)",
    )
    group.add_argument(
        "--transfer-share",
        type=fraction_between,
        default=0.5,
        metavar="SHARE",
        help="share of these examples in each batch, in (0, 1) (default: 0.5)",
    )
    group.add_argument(
        "--transfer-size",
        type=positive_integer,
        default=10,
        metavar="N",
        help="number of new examples that are made from each example; the teacher labels them once (default: 10)",
    )
    group.add_argument("--list-losses", action=_ListLosses, nargs=0, help="list the catalog of losses and exit")
    for option, (loss, meaning) in FEATURES.items():
        group.add_argument(
            f"--{option}",
            action="append",
            dest="losses",
            default=[],
            type=functools.partial(_feature, loss),
            metavar="STUDENT:TEACHER[:WEIGHT]",
            help=f"{meaning}; WEIGHT > 0 (default: 1); may be repeated",
        )


def add_training(parser: Parser) -> Any:
    """Add the options of the optimization, and return their group."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--batch-size",
        type=positive_integer,
        metavar="N",
        help="examples per step, >= 1 (default: 128; for small datasets less, for 8 steps per epoch, but not below 16)",
    )
    group.add_argument(
        "--epochs",
        type=number_of_epochs,
        metavar="N",
        help="number of epochs, >= 1 (default: 10; for small datasets more, for 500 steps, but not above 100)",
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="Keras optimizer (default: adam)")
    group.add_argument(
        "--learning-rate",
        type=positive_number,
        default=1e-3,
        metavar="RATE",
        help="initial learning rate, > 0; it decays to 0 along a cosine (default: 0.001)",
    )
    group.add_argument(
        "--seed",
        type=random_seed,
        default=0,
        metavar="N",
        help="seed of heads, dropout and shuffling, an integer >= 0 (default: 0)",
    )
    return group


def choose_length(options: argparse.Namespace, examples: int) -> None:
    """Set the batch size and the number of epochs where the options do not.

    With the numbers that suit large datasets, a student would see a hundred examples for ten steps only.

    Args:
        options: Options of the command.
        examples: Number of training examples.
    """
    if options.batch_size is None:
        powers = (size for size in (128, 64, 32) if size <= examples / 8)
        options.batch_size = next(powers, 16)
    if options.epochs is None:
        steps = -(-examples // options.batch_size)
        options.epochs = min(max(-(-500 // steps), 10), 100)


def _loss(text: str) -> LossOption:
    match = re.fullmatch(r"(\s*\w+\s*(?:\(.*\))?)((?::[^:]+)*)\s*", text, re.DOTALL)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"must be LOSS, LOSS:STUDENT:TEACHER or LOSS:STUDENT:TEACHER:WEIGHT, got {text}"
        )
    rest = [part for part in match[2].split(":") if part]
    name, settings = name_and_settings(match[1])
    weight = None
    if len(rest) in (1, 3):
        weight, rest = positive_number(rest[-1]), rest[:-1]
    if len(rest) not in (0, 2):
        raise argparse.ArgumentTypeError(f"must name a tap of the student and one of the teacher, got {text}")
    return LossOption(name, settings, *(rest or [None, None]), weight)


def _feature(loss: str, text: str) -> LossOption:
    parts = text.split(":")
    try:
        weight = positive_number(parts[2]) if len(parts) == 3 else 1.0
    except argparse.ArgumentTypeError:
        parts = []
    if len(parts) not in (2, 3) or not all(parts):
        raise argparse.ArgumentTypeError(
            f"must be STUDENT:TEACHER or STUDENT:TEACHER:WEIGHT with WEIGHT > 0, got {text}"
        )
    return LossOption(loss, {}, parts[0], parts[1], weight)


class _ListLosses(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        load_package()
        from keras_distill.utils.formatting import align_columns

        from .job import catalog

        rows = [(name, loss.__doc__.strip().splitlines()[0]) for name, loss in catalog().items()]
        print(align_columns(rows, left=2))
        parser.exit()
