"""Advice for experiments in which distillation gained nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from keras_distill.experiment.results import Results

# Differences of accuracy below which a teacher is hardly better, and a student does not overfit.
SMALL = 0.01


def advice(results: Results) -> str:
    """Return what to try if no distilled student is clearly better than its baseline; "" otherwise.

    The rule compares the accuracies of the baseline on the training and the evaluation examples. If they are alike, the
    student cannot learn more than the labels say. If not, and the teacher is better, then new examples help, which the
    labels cannot name; but a baseline that fits its training examples worse than the teacher fits new ones is trained
    too briefly.

    Args:
        results: A `Results`. The advice is empty for other scores than the accuracy, and without a teacher or the
            training accuracy of a baseline.
    """
    teacher = results.teacher()
    baselines = [model for model in results.models if model.role == "baseline"]
    gains = [each.clear and results.score.sign * each.difference > 0 for each in results.comparisons]
    if teacher is None or not baselines or not gains or any(gains) or results.score.name != "accuracy":
        return ""
    baseline = baselines[0]
    histories = [run.history["accuracy"][-1] for run in baseline.runs if run.history.get("accuracy")]
    if not histories:
        return ""
    seen, unseen, text = float(np.mean(histories)), baseline.mean(), results.score.text
    if teacher.mean() < unseen - SMALL:
        return (
            f"The teacher is worse than the baseline ({text(teacher.mean())} against {text(unseen)}). Check its "
            "weights, and whether it gets the inputs and the order of classes that it was trained with, by "
            "`preflight.check`."
        )
    if teacher.mean() - unseen < SMALL:
        return (
            f"The teacher is hardly better than the baseline ({text(teacher.mean())} against {text(unseen)}), which "
            "leaves little to gain. A larger teacher, an ensemble, or a smaller student leaves more."
        )
    compared = f"({text(seen)} in training, {text(unseen)} on the {results.split} examples)"
    if seen - unseen < SMALL:
        return (
            f"The baseline does not overfit {compared}: the student is too small, or trained too briefly, to learn "
            "more than the labels say. A larger student or more epochs may help; the best temperature is 1 then."
        )
    if seen < teacher.mean() - SMALL:
        return (
            f"The baseline underfits {compared}, and the teacher is at {text(teacher.mean())}. Train all models "
            "longer: more epochs, or more steps by smaller batches. If that does not help, the student is too small."
        )
    return (
        f"The baseline overfits {compared}, and the teacher is better. Let the teacher label examples that it was not "
        "trained on, or others than here: unlabeled ones, or new ones such as mixtures, by `Arm(transfer=Mixup())` or "
        "`--transfer=Mixup`, at temperature 1 and for more epochs."
    )
