"""The table of a report: one row of numbers per model."""

from typing import NamedTuple

from keras_distill.utils.formatting import UNKNOWN, align_columns, percent_with_spread

HEADINGS = ("model", "accuracy", "kept", "errors", "parameters", "ms per example", "speed-up", "gap recovered")


class Row(NamedTuple):
    """One model's numbers.

    Attributes:
        name: The model's.
        accuracy: Mean over its runs, 0 to 1.
        spread: Sample standard deviation of the accuracy over its runs; None for one run.
        kept: The accuracy over the teacher's; None for the teacher and where there is none.
        errors: Mean number of wrong test examples.
        parameters: Number of weights.
        ms_per_example: Milliseconds; None if not measured.
        speedup: The teacher's time over the model's; None for the teacher and where either was not measured.
        recovered: (distilled - alone) / (teacher - alone), of accuracies; None where the teacher is no better.
    """

    name: str
    accuracy: float
    spread: float | None
    kept: float | None
    errors: float
    parameters: int
    ms_per_example: float | None
    speedup: float | None
    recovered: float | None

    def cells(self):
        """The numbers as people read them, in the order of `HEADINGS`."""
        return (
            self.name,
            percent_with_spread(self.accuracy, self.spread),
            UNKNOWN if self.kept is None else f"{100 * self.kept:.1f} %",
            count(self.errors),
            f"{self.parameters:,}",
            UNKNOWN if self.ms_per_example is None else f"{self.ms_per_example:.3g}",
            UNKNOWN if self.speedup is None else f"{self.speedup:.1f}x",
            UNKNOWN if self.recovered is None else f"{100 * self.recovered:.0f} %".replace("-", "−"),
        )


def rows(results):
    """A `Row` per model of the `Results`, in their order."""
    return [
        Row(
            model.name,
            model.mean("accuracy"),
            model.spread("accuracy"),
            _kept(model, results.teacher()),
            model.mean("errors"),
            model.parameters,
            model.ms_per_example,
            _speedup(model, results.teacher()),
            _recovered(model, results.baseline(model), results.teacher()),
        )
        for model in results.models
    ]


def text(rows):
    """The rows aligned in columns."""
    return align_columns([HEADINGS, *(row.cells() for row in rows)])


def count(value):
    """A count or a mean of counts: decimals only where there are any, and only below 100."""
    return f"{value:,.0f}" if float(value).is_integer() or value >= 100 else f"{value:.1f}"


def _kept(model, teacher):
    if teacher is None or model is teacher or not teacher.mean("accuracy"):
        return None
    return model.mean("accuracy") / teacher.mean("accuracy")


def _speedup(model, teacher):
    times = [None if one is None else one.ms_per_example for one in (teacher, model)]
    return None if model is teacher or None in times or not times[1] else times[0] / times[1]


def _recovered(model, alone, teacher):
    if alone is None or teacher is None:
        return None
    gap = teacher.mean("accuracy") - alone.mean("accuracy")
    # Means of equal accuracies differ by rounding; a gap of that size is none.
    return (model.mean("accuracy") - alone.mean("accuracy")) / gap if gap > 1e-9 else None
