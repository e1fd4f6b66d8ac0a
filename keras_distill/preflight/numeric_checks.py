"""What is wrong with numbers as they flow: not finite, dead, the same for all examples, too large, too coarse."""

import collections

import keras
import numpy as np

from keras_distill.data.batch import unpack
from keras_distill.preflight.finding import Finding

# Share of the channels that say nothing; of a healthy ReLU layer up to a half are silent on few examples.
SILENT = 0.9
# How many times as large as the teacher's activations what a head makes of the student's may be. A new head with
# Keras' initialisation stays below 10, whatever the widths, if the student's activations are of the teacher's size.
EXPLODED = 100.0


def precision(distiller):
    """Weights of several precisions, or of one that small steps do not change."""
    dtypes = collections.defaultdict(list)
    for weight in distiller.trainable_variables:
        dtypes[weight.dtype].append(weight.path)
    found = []
    if len(dtypes) > 1:
        found.append(
            Finding(
                "precision",
                "The weights that are trained are of several precisions.",
                "; ".join(f"{len(paths)} in {dtype}, such as '{paths[0]}'" for dtype, paths in dtypes.items()),
                "Make all layers with one dtype policy; 'mixed_float16' and 'mixed_bfloat16' keep weights in float32.",
            )
        )
    for dtype in {"float16", "bfloat16"} & set(dtypes):
        found.append(
            Finding(
                "precision",
                f"Weights are trained in {dtype}, in which steps of less than a thousandth of a weight are lost.",
                f"{len(dtypes[dtype])} in {dtype}, such as '{dtypes[dtype][0]}'",
                f"Use the dtype policy 'mixed_{dtype}', which computes in {dtype} and keeps weights in float32.",
            )
        )
    return found


def inputs(batches):
    """Inputs and sample weights that are not finite. Labels may be NaN where they are missing."""
    found = []
    for what in ("inputs", "sample_weight", "cached"):
        broken = collections.Counter()
        for data in batches:
            for path, leaf in keras.tree.flatten_with_path(getattr(unpack(data, 0), what)):
                if leaf is not None and keras.backend.is_float_dtype(leaf.dtype):
                    bad = int((~np.isfinite(np.asarray(leaf, "float32"))).sum())
                    broken["/".join(str(part) for part in path)] += bad
        for path, count in broken.items():
            if count:
                name = {"inputs": "The inputs", "sample_weight": "The sample weights"}.get(
                    what, "The teacher's stored activations"
                )
                found.append(
                    Finding(
                        "not finite",
                        f"{name}{f' {path!r}' if path else ''} hold NaN or infinity.",
                        f"{count} such numbers in {len(batches)} batches",
                        "Look for divisions by 0 and missing values where the data are made.",
                    )
                )
    return found


def activations(look):
    """Activations and losses that are not finite: the first on the way from the inputs to the loss."""
    found = [
        Finding(
            "not finite",
            f"What the {side} puts out at '{tap}' holds NaN or infinity.",
            f"{activity.broken} such numbers from {activity.examples} examples",
            f"Look for the first layer of the {side} that does so; half precision overflows beyond 65,504.",
        )
        for side, taps in (("student", look.student), ("teacher", look.teacher))
        for tap, activity in taps.items()
        if activity.broken
    ]
    found = found or [
        Finding(
            "not finite",
            f"What the head of {term} puts out holds NaN or infinity.",
            f"{activity.broken} such numbers from {activity.examples} examples",
            "Choose another initializer, or another head.",
        )
        for term, activity in look.heads.items()
        if activity.broken
    ]
    return found or [
        Finding(
            "not finite",
            f"{part[0].upper()}{part[1:]} is {value}, though all activations are finite.",
            "mean over the batches, before any weight",
            "Look at the labels, and whether the loss takes what the models put out: logits or probabilities.",
        )
        for part, value in look.parts.items()
        if not np.isfinite(value)
    ]


def silence(trial):
    """Taps that are 0 everywhere, or the same for all examples; the student's, if trial steps did not wake them."""
    found = []
    for side, before, after in (
        ("student", trial.look.student, trial.then.student),
        ("teacher", trial.look.teacher, trial.look.teacher),
    ):
        for tap, first in before.items():
            pair = first, after[tap]
            if first.examples < 2 or any(activity.varies is None or activity.broken for activity in pair):
                continue
            silent = min(1 - float(np.mean(activity.varies)) for activity in pair)
            dead = not any(activity.largest for activity in pair)
            if silent < SILENT:
                continue
            what = "is 0 for every example" if dead else "says the same of every example"
            if not dead and silent < 1:
                what = "says the same of every example in nearly all channels"
            found.append(
                Finding(
                    "dead tap" if dead else "constant features",
                    f"The {side} {what} at '{tap}'.",
                    f"{silent:.0%} of {first.varies.size} channels do not vary over {first.examples} examples; largest "
                    f"value {first.largest:.3g}",
                    "Tap another layer, such as the one before its activation; look at initialisation, biases and the "
                    "scale of the inputs.",
                )
            )
    return found


def heads(trial):
    """Heads whose output is far larger than what it is compared with, at first or after the trial steps."""
    found = []
    for name, term in trial.probe.terms.items():
        if name not in trial.look.heads or not isinstance(term.teacher, str):
            continue
        before, after = trial.look.heads[name].size, trial.then.heads[name].size
        size = trial.look.teacher[term.teacher].size
        if size and (not np.isfinite(after) or max(before, after) > EXPLODED * size):
            found.append(
                Finding(
                    "exploding head",
                    f"The head of {name} makes activations far larger than the teacher's at '{term.teacher}'.",
                    f"root mean square {before:.3g} at first, {after:.3g} after {trial.steps} steps; the teacher's "
                    f"{size:.3g}",
                    "Normalise what goes into the head, tap a layer behind a normalisation, or lower the learning "
                    "rate.",
                )
            )
    return found
