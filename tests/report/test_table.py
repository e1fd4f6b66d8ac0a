"""Table of results: values worked by hand."""

import pytest

from keras_distill.report import ModelResult, Run
from tests.report import samples


def model(name, role, accuracies, baseline=None, parameters=1000, ms=None):
    runs = [Run(seed, accuracy, round(1000 * (1 - accuracy))) for seed, accuracy in enumerate(accuracies)]
    return ModelResult(name, role, parameters, runs, ms, baseline)


def table(*models):
    return samples.results(models=list(models), examples=[]).table()


def test_known_values():
    teacher, baseline, distilled = table(
        model("teacher", "teacher", [0.98], parameters=1_200_000, ms=0.12345),
        model("baseline", "baseline", [0.90, 0.94]),
        model("distilled", "distilled", [0.94, 0.95, 0.96], ms=0.05),
    )
    # Sample standard deviation of 0.90 and 0.94: sqrt(2 * 0.02^2 / 1).
    assert baseline.accuracy == pytest.approx(0.92) and baseline.spread == pytest.approx(0.02 * 2**0.5)
    assert distilled.spread == pytest.approx(0.01) and distilled.errors == 50
    assert teacher.spread is None and teacher.errors == 20
    assert distilled.gap_recovered == pytest.approx((0.95 - 0.92) / (0.98 - 0.92))
    assert teacher.gap_recovered is None and baseline.gap_recovered is None
    assert teacher.cells() == ("teacher", "98.00 %", "–", "20", "1,200,000", "0.123", "–", "–")
    assert baseline.cells() == ("baseline", "92.00 ± 2.83 %", "93.9 %", "80", "1,000", "–", "–", "–")
    # 0.95 / 0.98 of the teacher's accuracy, in 0.05 / 0.12345 of its time.
    shown = ("distilled", "95.00 ± 1.00 %", "96.9 %", "50", "1,000", "0.05", "2.5x", "50 %")
    assert distilled.cells() == shown


def test_a_student_is_compared_with_its_own_baseline():
    models = [model("t", "teacher", [0.9]), model("wide", "baseline", [0.8]), model("thin", "baseline", [0.5])]
    rows = table(*models, model("d", "distilled", [0.6], "thin"), model("e", "distilled", [0.7], "wide"))
    assert rows[3].gap_recovered == pytest.approx(0.25)
    assert rows[4].gap_recovered == pytest.approx(-1)
    assert rows[4].cells()[-1] == "−100 %"


@pytest.mark.parametrize(
    "models",
    [
        [model("t", "teacher", [0.7]), model("a", "baseline", [0.8]), model("d", "distilled", [0.9])],
        # The floating-point mean of three times 0.97 is above 0.97.
        [model("t", "teacher", [0.97] * 3), model("a", "baseline", [0.97]), model("d", "distilled", [0.9])],
        [model("a", "baseline", [0.8]), model("d", "distilled", [0.9])],
        [model("t", "teacher", [0.9]), model("d", "distilled", [0.9])],
    ],
)
def test_no_gap_to_recover(models):
    row = table(*models)[-1]
    assert row.gap_recovered is None and row.cells()[-1] == "–"


def test_without_a_teacher_there_is_no_accuracy_retained_and_no_speedup():
    row = table(model("a", "baseline", [0.8], ms=0.1))[0]
    assert row.accuracy_retained is None and row.speedup is None


def test_text_is_aligned():
    lines = samples.results().text().splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[0].split() == [
        "model",
        "accuracy",
        "accuracy",
        "retained",
        "errors",
        "parameters",
        "ms",
        "per",
        "example",
        "speed-up",
        "gap",
        "recovered",
    ]
    # The first column is as wide as its longest cell, "distilled", and two spaces.
    assert [line[:11] for line in lines] == ["model      ", "teacher    ", "baseline   ", "distilled  "]
    assert lines[1].endswith(" –") and lines[3].endswith(" %")
