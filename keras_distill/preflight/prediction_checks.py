"""Checks of predictions and labels: label range, logits, teacher accuracy, temperatures."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_distill.data.batch import unpack
from keras_distill.data.labels import label_mask
from keras_distill.losses import ChunkedCrossentropy
from keras_distill.models.specs import Spec
from keras_distill.preflight.finding import Finding, format_percent
from keras_distill.preflight.probe import ForwardStats, Probe
from keras_distill.preflight.statistics import SUM_TOLERANCE, Predictions
from keras_distill.training.base import BaseDistiller

# Number of standard deviations: a teacher within CHANCE of random guessing is at chance level, and a difference of
# SIGNIFICANT is not a coincidence.
CHANCE, SIGNIFICANT = 2.0, 3.0
# Minimum number of labeled examples to measure accuracy, and of examples outside of the most frequent class to compare
# with chance.
MIN_LABELED, MIN_MINORITY = 32, 16
# Gap between the teacher's mean confidence and its accuracy; common overconfident networks have 0.1 to 0.2.
OVERCONFIDENT = 0.3
# Accuracy gain from which another class order is reported.
MIN_REORDERING_GAIN = 0.1
# Mean entropy deficit below which soft targets are uniform: all class probabilities are within about 2 %.
UNIFORM = 1e-4
# Mean probability outside of the predicted class below which soft targets equal hard labels.
HARD = 1e-4
# Number of classes of a class order that are printed.
_MAX_LISTED = 12


def check_labels(distiller: BaseDistiller, batches: list[tuple]) -> list[Finding]:
    """Report labels that do not fit the classes of the student's output."""
    findings = []
    for position, (entry, spec, loss) in enumerate(_supervised_outputs(distiller)):
        if loss is None or not isinstance(spec, Spec) or isinstance(loss, ChunkedCrossentropy):
            continue
        rows = [row for data in batches for row in _present_labels(unpack(data, 0).labels, entry, position, spec)]
        values = np.concatenate(rows) if rows else np.zeros(0)
        invalid, expected = _invalid_labels(values, loss, spec.shape[-1])
        if len(invalid):
            name = "labels" if entry is None else f"labels {entry!r}"
            units = f"{spec.shape[-1]} {'classes' if spec.shape[-1] > 1 else 'unit'}"
            examples = sorted(set(invalid.ravel().tolist()))[:5]
            findings.append(
                Finding(
                    "labels out of range",
                    f"The {name} do not fit the student's output of {units}.",
                    f"{len(invalid)} of {values.size} are invalid, e.g. {examples}. Expected: {expected}.",
                    "Number the classes from 0, or set the units of the student's last layer to the number of classes.",
                )
            )
    return findings


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
        taps |= {("student", tap) for tap in distiller.outputs}
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


def check_teacher_accuracy(stats: ForwardStats) -> list[Finding]:
    """Report a teacher with another class order, at chance level, confidently wrong or worse than the student."""
    findings = []
    for (_, tap), logit_stats in stats.logits.items():
        predictions = logit_stats.predictions
        if len(predictions.labels) >= MIN_LABELED:
            finding = (
                _class_order(predictions, tap, logit_stats.num_classes)
                or _chance_level(predictions, tap)
                or _confidently_wrong(predictions, tap)
                or _worse_than_student(predictions, tap)
            )
            findings += [finding] if finding else []
    return findings


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
                        "Lower the temperature; 2 to 8 is typical. If the logits are small, check that the teacher "
                        "was trained.",
                    )
                )
            elif outside < HARD:
                findings.append(
                    Finding(
                        "temperature too low",
                        f"The temperature of {name} ({loss}) is too low: the soft targets equal hard labels.",
                        f"{seen}.",
                        "Raise the temperature until this probability is a few hundredths; 2 to 8 is typical.",
                    )
                )
    return findings


def _invalid_labels(values: np.ndarray, loss: Any, classes: int) -> tuple[np.ndarray, str]:
    """Return the labels that the loss cannot use, and a description of valid ones."""
    if values.ndim == 1 and classes > 1:
        invalid = values[(values < 0) | (values >= classes) | (values != np.round(values))]
        return invalid, f"integers from 0 to {classes - 1}, and -1 for a missing label"
    categorical = _is_loss(loss, keras.losses.CategoricalCrossentropy, "categorical_crossentropy")
    if not categorical and not _is_loss(loss, keras.losses.BinaryCrossentropy, "binary_crossentropy"):
        return np.zeros(0), ""
    invalid = values[(values < 0) | (values > 1)]
    if categorical and not len(invalid) and values.ndim > 1:
        sums = values.sum(-1)
        return sums[np.abs(sums - 1) > SUM_TOLERANCE], "rows with a sum of 1"
    return invalid, "values from 0 to 1"


def _supervised_outputs(distiller: BaseDistiller) -> list[tuple[Any, Any, Any]]:
    """Return `(entry of the labels or None, Spec, loss)` of each output of the student."""
    loss = distiller.loss
    if loss is None:
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


def _present_labels(labels: Any, entry: Any, position: int, spec: Spec) -> Iterator[np.ndarray]:
    """Yield the labels of an output that are not missing, shape `[labels]` or `[labels, components]`."""
    if isinstance(labels, dict):
        labels = labels.get(entry)
    elif isinstance(labels, (list, tuple)):
        labels = labels[position]
    if labels is None:
        return
    present = np.asarray(label_mask(labels, spec))
    values = np.asarray(labels)
    if values.ndim == len(spec.shape) and values.shape[-1] == 1 and spec.shape[-1] != 1:
        values = values[..., 0]
    yield values[present]


def _is_loss(loss, loss_class, name):
    return loss == name or isinstance(loss, loss_class)


def _correct(predictions):
    """Return booleans of shape `[examples]`: whether the teacher's prediction is correct."""
    return predictions.teacher == predictions.labels


def _accuracy(predictions):
    return format_percent(_correct(predictions).mean())


def _measured(predictions):
    return f"Correct on {_correct(predictions).sum()} of {len(predictions.labels)} labeled examples"


def _class_order(predictions, tap, num_classes):
    reordering = _better_class_order(predictions, num_classes)
    if reordering is None:
        return None
    accuracy, classes = reordering
    listed = ", ".join(map(str, classes[:_MAX_LISTED])) + (", ..." if len(classes) > _MAX_LISTED else "")
    return Finding(
        "class order",
        f"Teacher and labels have a different class order at '{tap}' (accuracy {_accuracy(predictions)}, "
        f"{format_percent(accuracy)} after reordering).",
        f"{_measured(predictions)} in the present order.",
        f"Wrap the teacher as ModelTeacher(teacher, classes=[{listed}]), or number the labels like the teacher.",
    )


def _chance_level(predictions, tap):
    chance, deviation = _chance_accuracy(predictions)
    num_minority = len(predictions.labels) - np.bincount(predictions.labels).max()
    num_correct = _correct(predictions).sum()
    if num_minority < MIN_MINORITY or num_correct > len(predictions.labels) * chance + CHANCE * deviation:
        return None
    return Finding(
        "teacher at chance level",
        f"Teacher is at chance level at '{tap}' (accuracy {_accuracy(predictions)}, chance {format_percent(chance)}).",
        f"{_measured(predictions)}.",
        "Likely cause: weights not loaded, or different preprocessing. Evaluate the teacher separately; "
        "ModelTeacher(teacher, inputs=...) adds preprocessing to the teacher.",
    )


def _confidently_wrong(predictions, tap):
    confidence = predictions.confidence.mean()
    if confidence - _correct(predictions).mean() <= OVERCONFIDENT:
        return None
    return Finding(
        "teacher confidently wrong",
        f"Teacher is confidently wrong at '{tap}' (accuracy {_accuracy(predictions)}, mean confidence "
        f"{format_percent(confidence)}).",
        f"{_measured(predictions)}.",
        "Likely cause: different preprocessing or class order. Compare scale, color order, resolution and tokenization "
        "with the teacher's training, and the labels with its classes.",
    )


def _worse_than_student(predictions, tap):
    student_correct = predictions.student == predictions.labels
    if _sign_test(student_correct, _correct(predictions)) <= SIGNIFICANT:
        return None
    return Finding(
        "teacher worse than student",
        f"Teacher is less accurate than the student at '{tap}' before distillation (teacher {_accuracy(predictions)}, "
        f"student {format_percent(student_correct.mean())}).",
        f"{_measured(predictions)}, the student on {student_correct.sum()}.",
        "Exchange teacher and student, or check how the teacher is loaded and preprocessed.",
    )


def _chance_accuracy(predictions: Predictions) -> tuple[float, float]:
    """Return the accuracy of guesses independent of the example, and the standard deviation of their correct count.

    The guesses have the class frequencies of the teacher's predictions.
    """
    size = 1 + int(max(predictions.labels.max(), predictions.teacher.max()))
    label_frequency = np.bincount(predictions.labels, minlength=size) / len(predictions.labels)
    guess_frequency = np.bincount(predictions.teacher, minlength=size) / len(predictions.teacher)
    chance = float(label_frequency @ guess_frequency)
    return chance, (len(predictions.labels) * chance * (1 - chance)) ** 0.5


def _better_class_order(predictions: Predictions, num_classes: int) -> tuple[float, list[int]] | None:
    """Return `(accuracy, [teacher class of each label])` of a class order that is clearly better; None without one."""
    # Estimated on one half of the examples and tested on the other.
    estimation = np.arange(len(predictions.labels)) % 2 == 0
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (predictions.teacher[estimation], predictions.labels[estimation]), 1)
    label_of_class = np.where(counts.any(1), counts.argmax(1), -1)
    used = label_of_class[label_of_class >= 0]
    if len(set(used)) < len(used) or len(used) < 2:
        return None
    teacher, labels = predictions.teacher[~estimation], predictions.labels[~estimation]
    mapped, correct = label_of_class[teacher] == labels, teacher == labels
    if mapped.mean() - correct.mean() < MIN_REORDERING_GAIN or _sign_test(mapped, correct) < SIGNIFICANT:
        return None
    # Classes without examples keep their index if it is free.
    order = {int(label): index for index, label in enumerate(label_of_class) if label >= 0}
    free = [index for index in range(num_classes) if index not in order.values()]
    for label in range(num_classes):
        if label not in order:
            order[label] = label if label in free else free[0]
            free.remove(order[label])
    return float(mapped.mean()), [order[label] for label in range(num_classes)]


def _sign_test(first, second):
    """Return by how many standard deviations `first` is correct more often, over the examples where they differ."""
    better, worse = (first & ~second).sum(), (second & ~first).sum()
    return (better - worse) / max((better + worse) ** 0.5, 1.0)
