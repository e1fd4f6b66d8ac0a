"""The few numbers on top of the page, and the problems above them."""

import dataclasses
import math

from keras_distill.experiment.model_result import ModelResult
from keras_distill.experiment.results import Results
from keras_distill.experiment.statistics import Comparison
from keras_distill.utils.formatting import format_percent


@dataclasses.dataclass(frozen=True)
class Headline:
    """One number with its meaning.

    Attributes:
        value: The number, such as "98.7 %".
        label: Meaning of the number, a few words.
        note: The numbers behind it. Empty for none.
    """

    value: str
    label: str
    note: str = ""


def main_arm(results: Results) -> ModelResult | None:
    """Return the first distilled model, which the summary is about; None without a distilled model.

    The order is the user's. The model with the best score would be a choice by chance where the scores are close.

    Args:
        results: A `Results`.
    """
    return next((model for model in results.models if model.role == "distilled"), None)


def headlines(results: Results) -> list[Headline]:
    """Return score retained, size, speed and teacher-student gap recovered of the first distilled model.

    The gap is left out where the model is not clearly better than its baseline.

    Args:
        results: A `Results`. Numbers that it does not contain are left out.
    """
    model, teacher = main_arm(results), results.teacher()
    if model is None:
        return []
    (row,) = [row for row in results.table() if row.name == model.name]
    found = []
    if teacher is not None:
        found.append(_score(results, model, teacher, results.baseline(model)))
        found.append(_ratio(row.compression, "smaller", "larger", _counts(model, teacher)))
        found.append(_ratio(row.speedup, "faster", "slower", _latencies(model, teacher)))
        found.append(_gap(results, model, row))
    return [headline for headline in found if headline is not None]


def harmed(results: Results) -> list[Comparison]:
    """Return the comparisons in which a distilled model is clearly worse than its baseline.

    Args:
        results: A `Results`.
    """
    distilled = {model.name for model in results.models if model.role == "distilled"}
    return [
        each
        for each in results.comparisons
        if each.clear and results.score.sign * each.difference < 0 and each.model in distilled
    ]


def ratio_text(ratio: float) -> str:
    """Return a ratio as "38x" or "2.5x"."""
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x"


def _score(results, model, teacher, baseline):
    score = results.score
    student, reference = model.mean(), teacher.mean()
    if not (math.isfinite(student) and math.isfinite(reference)) or reference <= 0:
        return None
    note = f"{score.text(student)} against {score.text(reference)}"
    if baseline is not None:
        note += f"; \u201c{baseline.name}\u201d: {score.text(baseline.mean())}"
    if score.higher_is_better:
        return Headline(format_percent(student / reference), f"of the teacher\u2019s {score.name}", note)
    return Headline(f"{student / reference:.2f}x", f"the teacher\u2019s {score.name}; lower is better", note)


def _ratio(ratio, more, less, note):
    if ratio is None or not math.isfinite(ratio) or ratio <= 0:
        return None
    if ratio_text(ratio) == "1.0x":
        return Headline("1.0x", "the teacher\u2019s size" if more == "smaller" else "the teacher\u2019s latency", note)
    return Headline(ratio_text(ratio), more, note) if ratio > 1 else Headline(ratio_text(1 / ratio), less, note)


def _counts(model, teacher):
    return (
        f"{model.parameters:,} of {teacher.parameters:,} parameters" if model.parameters and teacher.parameters else ""
    )


def _latencies(model, teacher):
    if model.latency is None or teacher.latency is None:
        return ""
    return f"{model.latency.text()} against {teacher.latency.text()} ms per example"


def _gap(results, model, row):
    baseline = results.baseline(model)
    better = any(
        each.clear and results.score.sign * each.difference > 0
        for each in results.comparisons
        if (each.model, each.baseline) == (model.name, baseline and baseline.name)
    )
    if row.gap_recovered is None or not math.isfinite(row.gap_recovered) or not better:
        return None
    note = f"from \u201c{baseline.name}\u201d to the teacher"
    if row.gap_interval is not None:
        low, high = (f"{100 * bound:.0f}" for bound in row.gap_interval)
        note = f"95 % interval {low} to {high} %, {note}".replace("-", "\u2212")
    value = f"{100 * row.gap_recovered:.0f} %".replace("-", "\u2212")
    return Headline(value, "of the teacher-student gap recovered", note)
