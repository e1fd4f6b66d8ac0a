"""Options of `check` and `distill` for the loss and the optimization."""

import argparse
import functools
from typing import Any, NamedTuple

from .common import (
    Parser,
    fraction_below_one,
    positive_integer,
    positive_number,
    random_seed,
    softmax_temperature,
    wrap_text,
)

# Losses of two intermediate activations: option, class in `keras_distill.losses`, help.
FEATURES = {
    "hint": ("Hint", "mean squared error of two activations"),
    "cosine": ("CosineSimilarity", "cosine distance of two activations, e.g. hidden states"),
    "attention-transfer": ("AttentionTransfer", "attention transfer (AT) between two convolutional feature maps"),
    "similarity": ("SimilarityPreserving", "similarity-preserving loss (SP) of two activations"),
}

OPTIMIZERS = ("adam", "adamw", "lion", "nadam", "rmsprop", "sgd")


class Feature(NamedTuple):
    """Comparison of intermediate activations, as an option gives it.

    Attributes:
        loss: Name of a class in `keras_distill.losses`.
        student: Tap of the student, or a pattern of layers if it contains a `*`.
        teacher: Tap or pattern of the teacher.
        weight: Weight of the term, > 0.
    """

    loss: str
    student: str
    teacher: str
    weight: float


def add_objective(parser: Parser) -> None:
    """Add the options of the loss in a new group."""
    group = parser.add_argument_group(
        "objective",
        wrap_text(
            "The loss is A * crossentropy(labels, student) + (1 - A) * T^2 * KL(teacher || student), both softened "
            "with temperature T, plus WEIGHT * loss for each pair of intermediate activations. STUDENT and TEACHER are "
            "taps as listed by `inspect`, or patterns of layers such as 'block_*', which are paired evenly by depth. "
            "Where shapes differ, a head is trained that maps the student's activation to the teacher's shape."
        ),
    )
    group.add_argument(
        "--temperature",
        type=softmax_temperature,
        default=4.0,
        metavar="T",
        help="softmax temperature, from 0.001 to 10000; 1 to 4 is typical (default: 4)",
    )
    group.add_argument(
        "--alpha",
        type=fraction_below_one,
        default=0.1,
        metavar="A",
        help="weight of the labels, in [0, 1); the teacher has 1 - A (default: 0.1)",
    )
    for option, (loss, meaning) in FEATURES.items():
        group.add_argument(
            f"--{option}",
            action="append",
            dest="features",
            default=[],
            type=functools.partial(_feature, loss),
            metavar="STUDENT:TEACHER[:WEIGHT]",
            help=f"{meaning}; WEIGHT > 0 (default: 1); may be repeated",
        )


def add_training(parser: Parser) -> Any:
    """Add the options of the optimization, and return their group."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--batch-size", type=positive_integer, default=128, metavar="N", help="examples per step, >= 1 (default: 128)"
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


def _feature(loss: str, text: str) -> Feature:
    parts = text.split(":")
    try:
        weight = positive_number(parts[2]) if len(parts) == 3 else 1.0
    except argparse.ArgumentTypeError:
        parts = []
    if len(parts) not in (2, 3) or not all(parts):
        raise argparse.ArgumentTypeError(
            f"must be STUDENT:TEACHER or STUDENT:TEACHER:WEIGHT with WEIGHT > 0, got {text}"
        )
    return Feature(loss, parts[0], parts[1], weight)
