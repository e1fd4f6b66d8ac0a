"""Checks of logits: probabilities in their place, and temperatures."""

from keras_distill.preflight.finding import Finding
from keras_distill.preflight.probe import ForwardStats, Probe
from keras_distill.training.base import BaseDistiller

# Mean entropy deficit below which soft targets are uniform: all class probabilities are within about 2 %.
UNIFORM = 1e-4
# Mean probability outside of the predicted class below which soft targets equal hard labels.
HARD = 1e-4
TOO_LOW = "temperature too low"


def check_logits(distiller: BaseDistiller, stats: ForwardStats) -> list[Finding]:
    """Report activations that hold probabilities where logits are required.

    Terms compare the input of a softmax where the graph of a model ends in one. This check measures the values, so it
    covers functions, cached activations and the supervised loss.
    """
    taps = {("student", student) for student, _ in stats.logits} | {("teacher", teacher) for _, teacher in stats.logits}
    # Terms compare the input of a softmax that ends a graph.
    specs = {"student": distiller.specs.student, "teacher": distiller.specs.teacher}
    taps = {(side, tap) for side, tap in taps if not specs[side][tap].probabilities}
    supervised = {part.title for name, part in distiller.parts.items() if name == part.supervised}
    if supervised & set(stats.losses) and getattr(distiller.loss, "from_logits", False):
        taps |= {("student", tap) for tap in distiller.outputs if not _keras_reads_logits(specs["student"][tap])}
    findings = []
    for side, tap in sorted(taps):
        activation = getattr(stats, side).get(tap)
        if activation is not None and activation.num_examples and activation.is_probability:
            findings.append(
                Finding(
                    "probabilities",
                    f"The {side} outputs probabilities at '{tap}', but logits are required: softmax would be applied "
                    "twice.",
                    f"No value is below 0 and every row sums to 1, over {activation.num_examples} examples.",
                    f"Remove the final softmax of the {side}. Replace cached probabilities by their logarithm, whose "
                    "softmax they are.",
                )
            )
    return findings


def _keras_reads_logits(spec):
    """Return whether Keras' crossentropy reads the input of a softmax, as it does where no cast follows the softmax."""
    return spec.source == "Softmax" and spec.dtype == "float32"


def check_temperatures(probe: Probe, stats: ForwardStats) -> list[Finding]:
    """Report temperatures at which soft targets are uniform or equal to hard labels."""
    findings = []
    for logit_stats in stats.logits.values():
        for name, (outside, deficit) in logit_stats.soft_targets.items():
            loss = type(probe.terms[name].loss).__name__
            classes = logit_stats.num_classes
            seen = f"Mean probability outside of the predicted class {outside:.2g}, with {classes} classes"
            if deficit < UNIFORM:
                findings.append(
                    Finding(
                        "temperature too high",
                        f"The temperature of {name} ({loss}) is too high: the soft targets are uniform.",
                        f"{seen}; a uniform distribution has {1 - 1 / classes:.6g}.",
                        "Lower the temperature; 1 to 4 is typical. If the logits are small, check that the teacher "
                        "was trained.",
                    )
                )
            elif outside < HARD:
                findings.append(
                    Finding(
                        TOO_LOW,
                        f"The temperature of {name} ({loss}) is too low: the soft targets equal hard labels.",
                        f"{seen}.",
                        "Raise the temperature; 1 to 4 is typical. At such temperatures, the teacher has memorized "
                        "these examples: let it label others.",
                    )
                )
    return findings
