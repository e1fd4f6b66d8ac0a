"""Table of results: one row per model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keras_distill.utils.formatting import UNKNOWN, align_columns, percent_with_spread

if TYPE_CHECKING:
    from keras_distill.report.results import Results

HEADINGS = (
    "model",
    "accuracy",
    "accuracy retained",
    "errors",
    "parameters",
    "ms per example",
    "speed-up",
    "gap recovered",
)


class Row(NamedTuple):
    """Numbers of one model.

    Attributes:
        name: Name of the model.
        accuracy: Mean over the runs, 0 to 1.
        spread: Sample standard deviation of the accuracy over the runs; None for one run.
        accuracy_retained: Accuracy divided by the teacher's; None for the teacher and without a teacher.
        errors: Mean number of misclassified evaluation examples.
        parameters: Number of weights.
        ms_per_example: Prediction time in milliseconds; None if not measured.
        speedup: Prediction time of the teacher divided by that of the model; None for the teacher and where either was
            not measured.
        gap_recovered: Teacher-student gap recovered, `(distilled - baseline) / (teacher - baseline)` in accuracy; None
            unless the teacher is better than the baseline.
    """

    name: str
    accuracy: float
    spread: float | None
    accuracy_retained: float | None
    errors: float
    parameters: int
    ms_per_example: float | None
    speedup: float | None
    gap_recovered: float | None

    def cells(self) -> tuple[str, ...]:
        """Return the numbers as text, in the order of `HEADINGS`."""
        return (
            self.name,
            percent_with_spread(self.accuracy, self.spread),
            UNKNOWN if self.accuracy_retained is None else f"{100 * self.accuracy_retained:.1f} %",
            count(self.errors),
            f"{self.parameters:,}",
            UNKNOWN if self.ms_per_example is None else f"{self.ms_per_example:.3g}",
            UNKNOWN if self.speedup is None else f"{self.speedup:.1f}x",
            UNKNOWN if self.gap_recovered is None else f"{100 * self.gap_recovered:.0f} %".replace("-", "−"),
        )


def rows(results: Results) -> list[Row]:
    """Return one `Row` per model of the `Results`, in their order.

    Args:
        results: A `Results`.
    """
    return [
        Row(
            model.name,
            model.mean("accuracy"),
            model.spread("accuracy"),
            _accuracy_retained(model, results.teacher()),
            model.mean("errors"),
            model.parameters,
            model.ms_per_example,
            _speedup(model, results.teacher()),
            _gap_recovered(model, results.baseline(model), results.teacher()),
        )
        for model in results.models
    ]


def text(rows: list[Row]) -> str:
    """Return the rows as plain text, aligned in columns.

    Args:
        rows: List of `Row`.
    """
    return align_columns([HEADINGS, *(row.cells() for row in rows)])


def count(value: float) -> str:
    """Format a count or a mean of counts: one decimal for fractions below 100, otherwise none.

    Args:
        value: A number >= 0.
    """
    return f"{value:,.0f}" if float(value).is_integer() or value >= 100 else f"{value:.1f}"


def _accuracy_retained(model, teacher):
    if teacher is None or model is teacher or not teacher.mean("accuracy"):
        return None
    return model.mean("accuracy") / teacher.mean("accuracy")


def _speedup(model, teacher):
    if teacher is None or model is teacher or teacher.ms_per_example is None or not model.ms_per_example:
        return None
    return teacher.ms_per_example / model.ms_per_example


def _gap_recovered(model, baseline, teacher):
    if baseline is None or teacher is None:
        return None
    gap = teacher.mean("accuracy") - baseline.mean("accuracy")
    # Means of equal accuracies differ by rounding; a gap of that size counts as zero.
    return (model.mean("accuracy") - baseline.mean("accuracy")) / gap if gap > 1e-9 else None
