"""Checks of labels: whether they fit the classes of the student's output."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_distill.data.batch import unpack
from keras_distill.data.labels import label_mask
from keras_distill.losses import ChunkedCrossentropy
from keras_distill.models.specs import Spec
from keras_distill.preflight.finding import Finding
from keras_distill.preflight.statistics import SUM_TOLERANCE
from keras_distill.training.base import BaseDistiller
from keras_distill.training.labeled_losses import reads_class_indices
from keras_distill.training.task_loss import has_own_loss


def check_labels(distiller: BaseDistiller, batches: list[tuple]) -> list[Finding]:
    """Report labels that do not fit the classes of the student's output."""
    findings = []
    for position, (entry, spec, loss) in enumerate(supervised_outputs(distiller)):
        if loss is None or not isinstance(spec, Spec) or isinstance(loss, ChunkedCrossentropy):
            continue
        rows = [row for data in batches for row in _present_labels(unpack(data, 0).labels, entry, position, spec, loss)]
        values = np.concatenate(rows) if rows else np.zeros(0)
        ignored = getattr(loss, "ignore_class", None)
        if ignored is not None and values.ndim == 1:
            values = values[values != ignored]
        checked, is_invalid, expected, advice = _invalid_labels(values, loss, spec.shape[-1])
        if is_invalid.any():
            name = "labels" if entry is None else f"labels {entry!r}"
            units = f"{spec.shape[-1]} {'classes' if spec.shape[-1] > 1 else 'unit'}"
            examples = sorted(set(checked[is_invalid].tolist()))[:5]
            findings.append(
                Finding(
                    "labels out of range",
                    f"The {name} do not fit the student's output of {units}.",
                    f"{is_invalid.sum()} of {checked.size} are invalid, e.g. {examples}. Expected: {expected}.",
                    advice,
                )
            )
    return findings


def check_missing_labels(distiller: BaseDistiller, batches: list[tuple]) -> list[Finding]:
    """Report outputs that have a supervised loss but not a single label."""
    findings = []
    for position, (entry, spec, loss) in enumerate(supervised_outputs(distiller)):
        if loss is None or not isinstance(spec, Spec):
            continue
        labels = [unpack(data, 0).labels for data in batches]
        if not any(rows.size for data in labels for rows in _present_labels(data, entry, position, spec, loss)):
            output = "the student's output" if entry is None else f"output {entry!r}"
            passed = [data for data in labels if data is not None]
            findings.append(
                Finding(
                    "no labels",
                    f"The supervised loss of {output} has no label: only the terms are trained there.",
                    f"{len(batches)} batches, all labels missing (-1 or NaN)." if passed else "No `y` in the batches.",
                    "Pass labels, such as `fit(x, y)`. To train without labels, compile without `loss`.",
                )
            )
    return findings


def _invalid_labels(values: np.ndarray, loss: Any, classes: int) -> tuple[np.ndarray, np.ndarray, str, str]:
    """Return `(numbers, which of them the loss cannot use, a description of valid ones, advice)`."""
    if reads_class_indices(loss) and classes > 1:
        is_invalid = (values < 0) | (values >= classes) | (values != np.round(values))
        advice = "Number the classes from 0, or set the units of the student's last layer to the number of classes."
        return values, is_invalid, f"integers from 0 to {classes - 1}, and -1 for a missing label", advice
    categorical = _is_loss(loss, keras.losses.CategoricalCrossentropy, "categorical_crossentropy")
    if not categorical and not _is_loss(loss, keras.losses.BinaryCrossentropy, "binary_crossentropy"):
        return values, np.zeros(values.shape, bool), "", ""
    is_invalid = (values < 0) | (values > 1)
    if categorical and not is_invalid.any() and values.ndim > 1:
        sums = values.sum(-1)
        advice = "Pass one-hot rows, or use BinaryCrossentropy if an example may have several classes."
        return sums, np.abs(sums - 1) > SUM_TOLERANCE, "rows with a sum of 1", advice
    return values, is_invalid, "values from 0 to 1", "Convert the labels to values from 0 to 1."


def supervised_outputs(distiller: BaseDistiller) -> list[tuple[Any, Any, Any]]:
    """Return `(entry of the labels or None, Spec, loss)` of each output of the student, or of the first peer."""
    loss = distiller.loss
    if loss is None or any(has_own_loss(model) for model in distiller.outputs.values()):
        return []
    # Peers have the same labels; those of the first one stand for all.
    tap, student = next(iter(distiller.outputs.items()))
    spec = distiller.specs.student[tap]
    if isinstance(spec, Spec):
        return [(None, spec, loss[0] if isinstance(loss, (list, tuple)) and len(loss) == 1 else loss)]
    keys = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
    output_names = getattr(student, "output_names", None) or keys
    specs = list(spec.values()) if isinstance(spec, dict) else list(spec)
    outputs = []
    for position, (key, output_name, output_spec) in enumerate(zip(keys, output_names, specs)):
        if isinstance(loss, dict):
            output_loss = loss.get(key, loss.get(output_name))
        else:
            output_loss = loss[position] if isinstance(loss, (list, tuple)) else loss
        outputs.append((key if isinstance(key, str) else output_name, output_spec, output_loss))
    return outputs


def entry_of_output(structure: Any, entry: Any, position: int) -> Any:
    """Return the part of labels, weights or outputs that belongs to an output; a single tensor belongs to all.

    Args:
        structure: Tensor, or a structure of several.
        entry: Entry of the output, as `supervised_outputs` returns it.
        position: Position of the output.
    """
    if isinstance(structure, dict):
        return structure.get(entry)
    return structure[position] if isinstance(structure, (list, tuple)) else structure


def _present_labels(labels: Any, entry: Any, position: int, spec: Spec, loss: Any) -> Iterator[np.ndarray]:
    """Yield the labels of an output that are not missing, shape `[labels]` or `[labels, components]`."""
    labels = entry_of_output(labels, entry, position)
    if labels is None:
        return
    present, values = np.asarray(label_mask(labels, reads_class_indices(loss))), np.asarray(labels)
    if values.ndim == len(spec.shape) and values.shape[-1] == 1 and spec.shape[-1] != 1:
        present, values = present[..., 0], values[..., 0]
    yield values[present.all(-1) if values.ndim == len(spec.shape) else present]


def _is_loss(loss, loss_class, name):
    return loss == name or isinstance(loss, loss_class)
