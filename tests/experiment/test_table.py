"""Table of results: values worked by hand."""

import math

import pytest

from keras_distill.experiment import table as tables
from keras_distill.experiment.latency import Latency
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import Comparison
from tests.report import samples


def model(name, role, scores, baselines=(), parameters=1000, ms=None, **changed):
    runs = [Run(seed, score) for seed, score in enumerate(scores)]
    latency = None if ms is None else Latency(ms, ms, ms, 128)
    return ModelResult(name, role, parameters, runs, latency, baselines, **changed)


def results(*models, **changed):
    return samples.results(models=list(models), **{"examples": [], "comparisons": [], **changed})


def cells(sample):
    return [tables.cells(sample, row) for row in sample.table()]


def test_known_values():
    sample = results(
        model("teacher", "teacher", [0.98], parameters=1_200_000, ms=0.12345),
        model("baseline", "baseline", [0.90, 0.94]),
        model("distilled", "distilled", [0.94, 0.95, 0.96], ["baseline"], ms=0.05, bytes=4_100),
        comparisons=[Comparison("distilled", "baseline", 0.03, 3, (0.015, 0.045), 0.01)],
    )
    teacher, baseline, distilled = sample.table()
    # Sample standard deviation of 0.90 and 0.94: sqrt(2 * 0.02^2 / 1).
    assert baseline.score == pytest.approx(0.92) and baseline.spread == pytest.approx(0.02 * 2**0.5)
    assert distilled.spread == pytest.approx(0.01) and teacher.spread is None
    assert distilled.gap_recovered == pytest.approx((0.95 - 0.92) / (0.98 - 0.92))
    assert distilled.gap_interval == pytest.approx((0.015 / 0.06, 0.045 / 0.06))
    assert distilled.compression == pytest.approx(1200)
    assert teacher.gap_recovered is None and baseline.gap_recovered is None
    assert cells(sample) == [
        ("teacher", "98.00 %", "–", "–", "1,200,000", "–", "0.123", "–", "–"),
        ("baseline", "92.00 ± 2.83 %", "93.9 %", "–", "1,000", "–", "–", "–", "–"),
        # 0.95 / 0.98 of the teacher's accuracy, in 0.05 / 0.12345 of its time.
        ("distilled", "95.00 ± 1.00 %", "96.9 %", "–", "1,000", "4.1 kB", "0.05", "2.5x", "50 %"),
    ]


def test_a_lower_error_is_better():
    sample = results(
        model("teacher", "teacher", [0.4]),
        model("baseline", "baseline", [0.8]),
        model("distilled", "distilled", [0.5], ["baseline"]),
        score=Score("RMSE", higher_is_better=False, percent=False, unit="m"),
    )
    _, baseline, distilled = sample.table()
    assert (baseline.retained, distilled.retained) == pytest.approx((0.5, 0.8))
    assert distilled.gap_recovered == pytest.approx(0.75)
    assert cells(sample)[2][:3] == ("distilled", "0.5 m", "80.0 %")


def test_a_student_is_compared_with_its_first_baseline():
    models = [model("t", "teacher", [0.9]), model("wide", "baseline", [0.8]), model("thin", "baseline", [0.5])]
    others = [model("d", "distilled", [0.6], ["thin", "wide"]), model("e", "distilled", [0.7], ["wide"])]
    sample = results(*models, *others)
    rows = sample.table()
    assert rows[3].gap_recovered == pytest.approx(0.25)
    assert rows[4].gap_recovered == pytest.approx(-1)
    assert cells(sample)[4][-1] == "−100 %"


@pytest.mark.parametrize(
    "models",
    [
        [model("t", "teacher", [0.7]), model("a", "baseline", [0.8]), model("d", "distilled", [0.9], ["a"])],
        # The floating-point mean of three times 0.97 is above 0.97.
        [model("t", "teacher", [0.97] * 3), model("a", "baseline", [0.97]), model("d", "distilled", [0.9], ["a"])],
        [model("a", "baseline", [0.8]), model("d", "distilled", [0.9], ["a"])],
        [model("t", "teacher", [0.9]), model("d", "distilled", [0.9])],
        [model("t", "teacher", [0.9]), model("a", "baseline", [math.nan]), model("d", "distilled", [0.9], ["a"])],
    ],
)
def test_no_gap_to_recover(models):
    sample = results(*models)
    assert sample.table()[-1].gap_recovered is None and cells(sample)[-1][-1] == "–"


def test_scores_that_are_not_finite():
    sample = results(model("t", "teacher", [0.9]), model("d", "distilled", [math.nan, 0.5]))
    assert cells(sample)[1][:3] == ("d", "not finite", "–")


def test_without_a_teacher_nothing_is_retained_and_no_speedup():
    (row,) = results(model("a", "baseline", [0.8], ms=0.1)).table()
    assert row.retained is None and row.speedup is None and row.compression is None


def test_text_is_aligned():
    lines = samples.results().text().splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    headings = "model accuracy accuracy retained agreement parameters size ms/example speed-up gap recovered"
    assert lines[0].split() == headings.split()
    # The first column is as wide as its longest cell, "distilled", and two spaces.
    assert [line[:11] for line in lines] == ["model      ", "teacher    ", "baseline   ", "distilled  "]
    assert lines[1].endswith(" –") and lines[3].endswith(" %")


def test_text_leaves_out_empty_columns():
    lines = results(model("a", "baseline", [0.8])).text().splitlines()
    assert lines[0].split() == ["model", "accuracy", "parameters"]
