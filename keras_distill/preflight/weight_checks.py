"""Checks of sample weights."""

from typing import Any

import keras
import numpy as np

from keras_distill.data.batch import unpack
from keras_distill.preflight.finding import Finding


def check_sample_weights(batches: list[tuple]) -> list[Finding]:
    """Report sample weights that are negative or all 0. `check_inputs` reports NaN and infinity."""
    weights = {}
    for data in batches:
        for name, values in _named_leaves(unpack(data, 0).sample_weight):
            weights.setdefault(name, []).append(np.asarray(values, "float64").ravel())
    findings = [_invalid_weights(name, np.concatenate(parts)) for name, parts in weights.items()]
    return [finding for finding in findings if finding is not None]


def _invalid_weights(name: str, values: np.ndarray) -> Finding | None:
    negative = values[values < 0]
    if negative.size:
        return Finding(
            "negative sample weights",
            f"The {name} are partly negative: training would increase the losses of these examples.",
            f"{negative.size} of {values.size}, e.g. {np.unique(negative)[:5].tolist()}.",
            "Pass weights >= 0. A weight of 0 leaves an example out.",
        )
    if values.size and not values.any():
        return Finding(
            "sample weights all 0",
            f"The {name} are all 0: no example contributes to a loss.",
            f"{values.size} of {values.size} are 0.",
            "Check how the weights are computed, e.g. whether integer division rounded them to 0.",
        )
    return None


def _named_leaves(sample_weight: Any) -> list[tuple[str, Any]]:
    """Return `[(name in findings, weights)]` of the sample weights, or of those of each output."""
    if not keras.tree.is_nested(sample_weight):
        return [] if sample_weight is None else [("sample weights", sample_weight)]
    entries = sample_weight.items() if isinstance(sample_weight, dict) else enumerate(sample_weight)
    return [(f"sample weights {key!r}", values) for key, values in entries if values is not None]
