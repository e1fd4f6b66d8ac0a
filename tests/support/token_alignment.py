"""Alignment of the tokens of two tokenizers, as in the published code of universal logit distillation."""

import math

import numpy as np
from keras import ops


def aligned_rows(inputs, settings, side):
    """Return `[[row, ...], ...]`: for each text, logarithms of probabilities at its aligned answer tokens.

    Args:
        inputs: `{name: tensor}` of a golden case.
        settings: Hyperparameters of the case.
        side: "student" or "teacher".
    """
    log = ops.log_softmax(inputs[side] / settings[f"{side}_temperature"], axis=-1)
    # The position before a token predicts it. "observed" reads one position too late.
    shift = 1 if settings["merge"] == "bayesian" else 0
    rows = []
    for text in range(log.shape[0]):
        answers = _answers(inputs, settings, side, text)
        groups = [[position] for position in answers]
        if settings["extended"]:
            other = "teacher" if side == "student" else "student"
            ends = [set(_ends(inputs, s, text, _answers(inputs, settings, s, text))) for s in (side, other)]
            groups = _split(answers, _ends(inputs, side, text, answers), ends[0] & ends[1])
        ids = np.asarray(inputs[f"{side}_ids"])[text]
        rows.append([_merged(log[text], group, ids, shift) for group in groups])
    return rows


def _answers(inputs, settings, side, text):
    positions = np.flatnonzero(np.asarray(inputs[f"{side}_labels"])[text] != -100).tolist()
    return positions[:-1] if settings[f"skip_{side}_eos"] else positions


def _ends(inputs, side, text, positions):
    return np.asarray(inputs[f"{side}_offsets"])[text][positions, 1].tolist()


def _split(positions, ends, common):
    """Return groups of tokens, each up to a byte at which a token of the other model ends, too."""
    groups, group = [], []
    for position, end in zip(positions, ends, strict=True):
        group.append(position)
        if end in common:
            groups.append(group)
            group = []
    return groups


def _merged(log, group, ids, shift):
    """Return one row for a group of tokens: a distribution times the probabilities of the other tokens."""
    distribution, others = (group[-1], group[:-1]) if shift else (group[0], group[1:])
    factors = [ops.maximum(log[position - shift, ids[position]], math.log(1e-8)) for position in others]
    return sum(factors, log[distribution - shift])
