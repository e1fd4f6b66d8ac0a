"""Checks of numeric values: weight precision, NaN and infinity, constant features, exploding heads."""

import collections
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_distill import _compat
from keras_distill.data.batch import unpack
from keras_distill.preflight.finding import Finding, capitalize
from keras_distill.preflight.probe import ForwardStats
from keras_distill.teachers import EMATeacher
from keras_distill.training.base import BaseDistiller
from keras_distill.utils.formatting import format_percent

if TYPE_CHECKING:
    from keras_distill.preflight.optimization_checks import TrialSteps

# Layers of Keras that change inputs at random, in training mode.
_RANDOM = {
    layer
    for name, layer in vars(keras.layers).items()
    if name.startswith("Random") or name in ("AugMix", "CutMix", "MixUp", "RandAugment")
}
# Fraction of constant channels from which features count as dead. In a healthy ReLU layer up to half of the channels
# are constant over a few examples.
DEAD_FRACTION = 0.9
# Ratio of a head's output to the teacher's activation (root mean square) above which a head explodes. With Keras'
# initializers a new head stays below 10 for any widths, if student and teacher activations have the same scale.
EXPLODING_RATIO = 100.0


def check_random_layers(distiller: BaseDistiller) -> list[Finding]:
    """Report random preprocessing of the student's inputs that the teacher does not see.

    A teacher runs in inference mode, in which its own random layers do nothing. For a moving average of the student,
    the difference is intended.
    """
    if distiller.teacher is None or isinstance(distiller.teacher, EMATeacher):
        return []
    students = [layer for model in distiller.outputs.values() for layer in _random_layers(model)]
    if not students:
        return []
    return [
        Finding(
            "random layers",
            "The student sees other inputs than the teacher: it changes them at random.",
            f"Layers of the student: {students}. The teacher runs in inference mode, without augmentation.",
            "Move these layers into the dataset, `dataset.map`, so that both models see the same inputs.",
        )
    ]


def _random_layers(model):
    """Return the names of random preprocessing layers. Dropout does not count."""
    if not isinstance(model, keras.layers.Layer):
        return []
    return [layer.name for layer in _compat.flatten_layers(model) if type(layer) in _RANDOM]


def check_weight_precision(distiller: BaseDistiller) -> list[Finding]:
    """Report trainable weights of several dtypes, or of a dtype too coarse for small updates."""
    paths_by_dtype = collections.defaultdict(list)
    for weight in distiller.trainable_variables:
        paths_by_dtype[weight.dtype].append(weight.path)
    findings = []
    if len(paths_by_dtype) > 1:
        counts = "; ".join(f"{len(paths)} in {dtype}, e.g. '{paths[0]}'" for dtype, paths in paths_by_dtype.items())
        findings.append(
            Finding(
                "precision",
                "The trainable weights have several precisions.",
                f"Number of weights: {counts}.",
                "Use one dtype policy for all layers; 'mixed_float16' and 'mixed_bfloat16' keep weights in float32.",
            )
        )
    for dtype in {"float16", "bfloat16"} & set(paths_by_dtype):
        paths = paths_by_dtype[dtype]
        findings.append(
            Finding(
                "precision",
                f"Trainable weights are stored in {dtype}: updates below about a thousandth of a weight are lost.",
                f"{len(paths)} weights in {dtype}, e.g. '{paths[0]}'.",
                f"Use the dtype policy 'mixed_{dtype}', which computes in {dtype} and keeps weights in float32.",
            )
        )
    return findings


def check_inputs(batches: list[tuple]) -> list[Finding]:
    """Report NaN and infinity in inputs, sample weights and cached activations.

    Labels are not checked, because NaN marks a missing label. Cached activations may contain -infinity, the logit of a
    masked class.
    """
    descriptions = {
        "inputs": "The inputs",
        "sample_weight": "The sample weights",
        "cached": "The cached teacher activations",
    }
    findings = []
    for field, description in descriptions.items():
        counts = collections.Counter()
        for data in batches:
            for path, leaf in keras.tree.flatten_with_path(getattr(unpack(data, 0), field)):
                if leaf is not None and keras.backend.is_float_dtype(leaf.dtype):
                    values = np.asarray(leaf, "float32")
                    usable = np.isfinite(values) | (np.isneginf(values) if field == "cached" else False)
                    counts["/".join(str(part) for part in path)] += int((~usable).sum())
        findings += [
            Finding(
                "not finite",
                f"{description}{f' {path!r}' if path else ''} contain NaN or infinity.",
                f"{count} non-finite values in {len(batches)} batches.",
                "Look for divisions by 0 and missing values in the data pipeline.",
            )
            for path, count in counts.items()
            if count
        ]
    return findings


def check_activations(distiller: BaseDistiller, stats: ForwardStats) -> list[Finding]:
    """Report NaN and infinity in activations, else in outputs of heads, else in losses.

    Only the first stage with such values is reported, because they propagate to the stages after it. Logits that a term
    compares may be -infinity, which masks a class, as long as all losses are finite.
    """
    terms = [term for term in distiller.terms if term.loss.logits]
    logits = {("student", term.student) for term in terms} | {("teacher", term.teacher) for term in terms}
    invalid = _nonfinite_taps(stats, logits) or _nonfinite_heads(stats)
    losses = [] if invalid else _nonfinite_losses(stats)
    return invalid or losses and _nonfinite_taps(stats, ()) or losses


def _nonfinite_taps(stats, logits):
    return [
        Finding(
            "not finite",
            f"The {side} outputs NaN or infinity at '{tap}'.",
            f"{activation.num_nonfinite} non-finite values in {activation.num_examples} examples.",
            f"Find the first layer of the {side} that outputs them; float16 overflows above 65,504.",
        )
        for side, taps in (("student", stats.student), ("teacher", stats.teacher))
        for tap, activation in taps.items()
        if activation.num_nonfinite > (activation.num_masked if (side, tap) in logits else 0)
    ]


def _nonfinite_heads(stats):
    return [
        Finding(
            "not finite",
            f"The head of {term} outputs NaN or infinity.",
            f"{activation.num_nonfinite} non-finite values in {activation.num_examples} examples.",
            "Use another initializer or another head.",
        )
        for term, activation in stats.heads.items()
        if activation.num_nonfinite
    ]


def _nonfinite_losses(stats):
    return [
        Finding(
            "not finite",
            f"{capitalize(name)} is {value}, although all activations are finite.",
            "Mean over the batches, before weighting.",
            "Check the labels, and whether the loss expects logits or probabilities.",
        )
        for name, value in stats.losses.items()
        if not np.isfinite(value)
    ]


def check_constant_features(trial: "TrialSteps") -> list[Finding]:
    """Report taps that are 0 or constant for all examples; for the student, both before and after the trial steps."""
    findings = []
    for side, taps_before, taps_after in (
        ("student", trial.stats.student, trial.stats_after.student),
        ("teacher", trial.stats.teacher, trial.stats.teacher),
    ):
        for tap, before in taps_before.items():
            pair = before, taps_after[tap]
            unknown = any(activation.varying_channels is None or activation.num_nonfinite for activation in pair)
            if before.num_examples < 2 or unknown:
                continue
            constant = min(1 - float(np.mean(activation.varying_channels)) for activation in pair)
            if constant < DEAD_FRACTION:
                continue
            zero = not any(activation.max_abs for activation in pair)
            value = "0" if zero else "the same activation"
            channels = "" if zero or constant == 1 else " in almost all channels"
            findings.append(
                Finding(
                    "dead features" if zero else "constant features",
                    f"The {side} outputs {value} for all examples at '{tap}'{channels}.",
                    f"{format_percent(constant, 0)} of {before.varying_channels.size} channels do not vary over "
                    f"{before.num_examples} examples; largest absolute value {before.max_abs:.3g}.",
                    "Tap another layer, e.g. the one before the activation function, or check initialization, biases "
                    "and input scale.",
                )
            )
    return findings


def check_heads(trial: "TrialSteps") -> list[Finding]:
    """Report heads whose output is far larger than the teacher activation, before or after the trial steps."""
    findings = []
    for name, term in trial.probe.terms.items():
        # After a `teacher_head`, the head's output is not compared with the activation that was recorded.
        if name not in trial.stats.heads or not isinstance(term.teacher, str) or term.teacher_head is not None:
            continue
        before, after = trial.stats.heads[name].rms, trial.stats_after.heads[name].rms
        teacher = trial.stats.teacher[term.teacher].rms
        if teacher and (not np.isfinite(after) or max(before, after) > EXPLODING_RATIO * teacher):
            findings.append(
                Finding(
                    "exploding head",
                    f"The output of the head of {name} is far larger than the teacher activation at '{term.teacher}'.",
                    f"Root mean square {before:.3g} at first and {after:.3g} after {trial.num_steps} steps; teacher "
                    f"{teacher:.3g}.",
                    "Normalize the input of the head, tap a layer after a normalization layer, or lower the learning "
                    "rate.",
                )
            )
    return findings
