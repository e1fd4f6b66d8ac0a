"""Table of results: one row per model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from keras_distill.utils.formatting import UNKNOWN, align_columns, format_size

if TYPE_CHECKING:
    from keras_distill.experiment.results import Results


class Row(NamedTuple):
    """Numbers of one model.

    Attributes:
        name: Name of the model.
        score: Mean of the score over the runs.
        spread: Sample standard deviation of the score over the runs; None for one run.
        retained: Fraction of the teacher's score that the model retains: score / teacher's score, or its inverse if a
            lower score is better; None for the teacher and without a teacher.
        agreement: Mean of the agreement with the teacher; None if it was not measured.
        parameters: Number of weights; None if unknown.
        bytes: Size of the saved model in bytes; None if unknown.
        latency: Milliseconds per example, median; None if not measured.
        speedup: Latency of the teacher divided by that of the model; None for the teacher and where either was not
            measured.
        compression: Parameters of the teacher divided by those of the model; None for the teacher and where either is
            unknown.
        gap_recovered: Teacher-student gap recovered, `(model - baseline) / (teacher - baseline)` in score; None unless
            the teacher is better than the baseline.
        gap_interval: 95 % interval of `gap_recovered` over seeds, for the given gap; None for one seed.
    """

    name: str
    score: float
    spread: float | None
    retained: float | None
    agreement: float | None
    parameters: int | None
    bytes: int | None
    latency: float | None
    speedup: float | None
    compression: float | None
    gap_recovered: float | None
    gap_interval: tuple[float, float] | None


def headings(results: Results) -> tuple[str, ...]:
    """Return the headings of the columns of `cells`.

    Args:
        results: A `Results`.
    """
    name = results.score.name
    return (
        "model",
        name,
        f"{name} retained",
        "agreement",
        "parameters",
        "size",
        "ms/example",
        "speed-up",
        "gap recovered",
    )


def cells(results: Results, row: Row) -> tuple[str, ...]:
    """Return the numbers of a row as text, in the order of `headings`.

    Args:
        results: The `Results`.
        row: One of its rows.
    """
    score = results.score
    return (
        row.name,
        score.text(row.score, row.spread),
        _percent(row.retained, 1),
        UNKNOWN if row.agreement is None else score.text(row.agreement),
        UNKNOWN if row.parameters is None else f"{row.parameters:,}",
        UNKNOWN if row.bytes is None else format_size(row.bytes),
        UNKNOWN if row.latency is None else f"{row.latency:.3g}",
        UNKNOWN if row.speedup is None else f"{row.speedup:.1f}x",
        _percent(row.gap_recovered, 0),
    )


def rows(results: Results) -> list[Row]:
    """Return one `Row` per model of the `Results`, in their order.

    Args:
        results: A `Results`.
    """
    return [_row(results, model) for model in results.models]


def text(results: Results) -> str:
    """Return the table as plain text, aligned in columns. Columns without any number are left out.

    Args:
        results: A `Results`.
    """
    lines = [headings(results), *(cells(results, row) for row in rows(results))]
    shown = [column for column in zip(*lines) if set(column[1:]) != {UNKNOWN}]
    return align_columns(list(zip(*shown)))


def _row(results, model):
    teacher = results.teacher()
    measured = [run.agreement is not None for run in model.runs]
    recovered, interval = _gap_recovered(results, model)
    return Row(
        model.name,
        model.mean(),
        model.spread(),
        _retained(results.score, model, teacher),
        model.mean("agreement") if all(measured) else None,
        model.parameters,
        model.bytes,
        None if model.latency is None else model.latency.median,
        _ratio(model, teacher, lambda each: None if each.latency is None else each.latency.median),
        _ratio(model, teacher, lambda each: each.parameters),
        recovered,
        interval,
    )


def _retained(score, model, teacher):
    if teacher is None or model is teacher:
        return None
    high, low = (model, teacher) if score.higher_is_better else (teacher, model)
    return high.mean() / low.mean() if low.mean() else None


def _ratio(model, teacher, value):
    if teacher is None or model is teacher or value(teacher) is None or not value(model):
        return None
    return value(teacher) / value(model)


def _gap_recovered(results, model):
    baseline, teacher = results.baseline(model), results.teacher()
    if baseline is None or teacher is None:
        return None, None
    gap = teacher.mean() - baseline.mean()
    # Means of equal scores differ by rounding; a gap of that size counts as zero. NaN is no gap either.
    if not results.score.sign * gap > 1e-9:
        return None, None
    comparison = results.comparison(model.name, baseline.name)
    interval = None
    if comparison is not None and comparison.interval is not None:
        interval = tuple(sorted(bound / gap for bound in comparison.interval))
    return (model.mean() - baseline.mean()) / gap, interval


def _percent(fraction, digits):
    return (
        UNKNOWN if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{digits}f} %".replace("-", "\u2212")
    )
