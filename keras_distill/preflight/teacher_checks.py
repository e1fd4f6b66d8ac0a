"""Checks of the teacher's predictions: class order, chance level, confidence, accuracy of the student."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_distill.data.batch import unpack
from keras_distill.preflight.finding import Finding
from keras_distill.preflight.probe import ForwardStats
from keras_distill.preflight.statistics import Predictions
from keras_distill.utils.formatting import format_percent

# Number of standard deviations: a teacher within CHANCE of random guessing is at chance level, and a difference of
# SIGNIFICANT is not a coincidence.
CHANCE, SIGNIFICANT = 2.0, 3.0
# Minimum number of labeled examples to measure accuracy, and of examples outside of the most frequent class to compare
# with chance.
MIN_LABELED, MIN_MINORITY = 32, 16
# Gap between the teacher's mean confidence and its accuracy; common overconfident networks have 0.1 to 0.2.
OVERCONFIDENT = 0.3
# A teacher that gives the labels at least this probability, on average, has memorized them; and the number of labeled
# examples for each unlabeled one from which this matters.
REPEATED, MOSTLY_LABELED = 0.995, 9
MEMORIZED = "teacher memorized"
# Accuracy gain from which another class order is reported.
MIN_REORDERING_GAIN = 0.1
# Number of classes of a class order that are printed.
_MAX_LISTED = 12


def check_teacher_accuracy(stats: ForwardStats, batches: Sequence[tuple]) -> list[Finding]:
    """Report a teacher with another class order, at chance level, confidently wrong or worse than the student.

    Also report one that has memorized the labels, unless it labels further examples.
    """
    findings, values = [], _describe_inputs(batches)
    for (_, tap), logit_stats in stats.logits.items():
        predictions = logit_stats.predictions
        if len(predictions.labels) >= MIN_LABELED:
            finding = (
                _class_order(predictions, tap, logit_stats.num_classes)
                or _chance_level(predictions, tap, values)
                or _confidently_wrong(predictions, tap, values)
                or _worse_than_student(predictions, tap)
                or _memorized(predictions, logit_stats.num_unlabeled, tap)
            )
            findings += [finding] if finding else []
    return findings


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


def _chance_level(predictions, tap, values):
    chance, deviation = _chance_accuracy(predictions)
    num_minority = len(predictions.labels) - np.bincount(predictions.labels).max()
    num_correct = _correct(predictions).sum()
    if num_minority < MIN_MINORITY or num_correct > len(predictions.labels) * chance + CHANCE * deviation:
        return None
    return Finding(
        "teacher at chance level",
        f"Teacher is at chance level at '{tap}' (accuracy {_accuracy(predictions)}, chance {format_percent(chance)}).",
        f"{_measured(predictions)}{values}.",
        "Likely cause: weights not loaded, or different preprocessing, such as another scale of the inputs. Evaluate "
        "the teacher separately; "
        "ModelTeacher(teacher, inputs=...) adds preprocessing to the teacher.",
    )


def _confidently_wrong(predictions, tap, values):
    confidence = predictions.confidence.mean()
    if confidence - _correct(predictions).mean() <= OVERCONFIDENT:
        return None
    return Finding(
        "teacher confidently wrong",
        f"Teacher is confidently wrong at '{tap}' (accuracy {_accuracy(predictions)}, mean confidence "
        f"{format_percent(confidence)}).",
        f"{_measured(predictions)}{values}.",
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


def _memorized(predictions, num_unlabeled, tap):
    if predictions.target.mean() < REPEATED or num_unlabeled * MOSTLY_LABELED > len(predictions.labels):
        return None
    differ = (predictions.target < 0.5).sum()
    student = format_percent((predictions.student == predictions.labels).mean())
    return Finding(
        MEMORIZED,
        f"Teacher repeats the labels of these examples at '{tap}': its soft targets add little to them.",
        f"{_measured(predictions)}, mean confidence {format_percent(predictions.confidence.mean())}; soft targets "
        f"differ from the labels on {differ} examples. The student is correct on {student}.",
        "Let the teacher label examples that it was not trained on: unlabeled ones, or new ones as from "
        "keras_distill.data.Mixup, CutMix, Crops, Munge or Recombination, with temperature 1. In an experiment, pass "
        "`Arm(transfer=Mixup())`; on the command line, --transfer=Mixup.",
    )


def _correct(predictions):
    """Return booleans of shape `[examples]`: whether the teacher's prediction is correct."""
    return predictions.teacher == predictions.labels


def _accuracy(predictions):
    return format_percent(_correct(predictions).mean())


def _describe_inputs(batches):
    """Return "; inputs have values from 0 to 255", or "" without floating-point inputs."""
    arrays = [np.asarray(x) for batch in batches for x in keras.tree.flatten(unpack(batch, 0).inputs)]
    arrays = [array for array in arrays if array.dtype.kind == "f" and array.size]
    if not arrays:
        return ""
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    return f"; inputs have values from {low:.3g} to {high:.3g}"


def _measured(predictions):
    return f"Correct on {_correct(predictions).sum()} of {len(predictions.labels)} labeled examples"


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
