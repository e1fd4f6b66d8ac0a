"""What a student is to learn, as options of `check` and `distill` declare it."""

import argparse
import functools
from typing import NamedTuple

from .common import fraction_below_one, positive_integer, positive_number, wrap_text

# Losses of two inner activations, by the names of their options.
FEATURES = {
    "hint": ("Hint", "their mean squared difference"),
    "cosine": ("Cosine", "their direction, for hidden states"),
    "attention-transfer": ("AttentionTransfer", "where maps are large"),
    "similarity": ("SimilarityPreserving", "which examples they find alike"),
}


OPTIMIZERS = ("adam", "adamw", "lion", "nadam", "rmsprop", "sgd")


class Feature(NamedTuple):
    """A comparison of inner activations.

    Attributes:
        loss: The name of its class in `keras_distill.losses`.
        student, teacher: Taps; or patterns of layers, where one has a `*`.
        weight: Of the term.
    """

    loss: str
    student: str
    teacher: str
    weight: float


def add_objective(parser):
    group = parser.add_argument_group(
        "what is learnt",
        wrap_text(
            "A * (the labels) + (1 - A) * (the teacher's logits, softened by the temperature T), and inner "
            "activations, as `inspect` lists them. STUDENT and TEACHER are taps, or patterns of layers, such as "
            "'block_*', which are paired evenly. Where shapes differ, a head is trained that maps the student's to "
            "the teacher's."
        ),
    )
    group.add_argument(
        "--temperature", type=positive_number, default=4.0, metavar="T", help="of the softened logits; default 4"
    )
    group.add_argument(
        "--alpha",
        type=fraction_below_one,
        default=0.1,
        metavar="A",
        help="weight of the labels, from 0 to below 1; default 0.1",
    )
    for option, (loss, compared) in FEATURES.items():
        group.add_argument(
            f"--{option}",
            action="append",
            dest="features",
            default=[],
            type=functools.partial(_feature, loss),
            metavar="STUDENT:TEACHER[:WEIGHT]",
            help=f"two activations, by {compared}; weight 1 if none is given; may be repeated",
        )
    group.add_argument(
        "--batch-size", type=positive_integer, default=128, metavar="N", help="examples of a step; default 128"
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default adam")
    group.add_argument(
        "--learning-rate",
        type=positive_number,
        default=1e-3,
        metavar="RATE",
        help="the first; it falls along a cosine to 0; default 0.001",
    )
    group.add_argument("--seed", type=_seed, default=0, metavar="N", help="of heads, dropout and order; default 0")


def _feature(loss, text):
    student, teacher, *weight = text.split(":")[:3] if ":" in text else ("", "")
    if not (student and teacher) or text.count(":") > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not STUDENT:TEACHER or STUDENT:TEACHER:WEIGHT")
    return Feature(loss, student, teacher, positive_number(weight[0]) if weight else 1.0)


def _seed(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, 0 or more")
    return int(text)
