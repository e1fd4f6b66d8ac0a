"""Numbers on top of the page."""

import math

import pytest

from keras_distill.experiment.latency import Latency
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import Comparison
from keras_distill.report.summary import harmed, headlines, main_arm, ratio_text
from tests.report import samples

RMSE = Score("RMSE", higher_is_better=False, percent=False, unit="m")


def model(name, role, scores, parameters=1000, ms=None, baselines=()):
    latency = None if ms is None else Latency(ms, ms, ms, 1)
    runs = [Run(seed, score) for seed, score in enumerate(scores)]
    return ModelResult(name, role, parameters, runs, latency, baselines)


def results(*models, **changed):
    return samples.results(models=list(models), **{"examples": [], "comparisons": [], **changed})


def pairs(sample):
    return [(each.value, each.label) for each in headlines(sample)]


def test_the_four_numbers():
    sample = results(
        model("t", "teacher", [0.8], 10_000, 3.0),
        model("b", "baseline", [0.6, 0.6]),
        model("d", "distilled", [0.68, 0.72], 2_000, 0.2, ["b"]),
        model("better", "distilled", [0.79, 0.79], 2_000, 0.1, ["b"]),
        comparisons=[Comparison("d", "b", 0.1, 2, (0.02, 0.18), 0.02)],
    )
    assert main_arm(sample).name == "d"
    assert pairs(sample) == [
        ("87.5 %", "of the teacher’s accuracy"),
        ("5.0x", "smaller"),
        ("15x", "faster"),
        ("50 %", "of the teacher-student gap recovered"),
    ]
    notes = [each.note for each in headlines(sample)]
    assert notes == [
        "70.00 % against 80.00 %; “b”: 60.00 %",
        "2,000 of 10,000 parameters",
        "0.2 against 3 ms per example",
        "95 % interval 10 to 90 %, from “b” to the teacher",
    ]


def test_a_lower_error_is_better():
    sample = results(
        model("t", "teacher", [0.4]),
        model("b", "baseline", [0.8]),
        model("d", "distilled", [0.5], baselines=["b"]),
        comparisons=[Comparison("d", "b", -0.3, 3, (-0.4, -0.2), 0.01)],
        score=RMSE,
    )
    assert pairs(sample) == [
        ("1.25x", "the teacher’s RMSE; lower is better"),
        ("1.0x", "the teacher’s size"),
        ("75 %", "of the teacher-student gap recovered"),
    ]


def test_a_larger_slower_and_worse_student():
    sample = results(
        model("t", "teacher", [0.8], 1_000, 1.0),
        model("b", "baseline", [0.6]),
        model("d", "distilled", [0.5], 2_500, 4.0, ["b"]),
    )
    assert pairs(sample)[1:] == [("2.5x", "larger"), ("4.0x", "slower")]


def test_the_gap_is_a_headline_only_where_the_student_is_clearly_better():
    models = [model("t", "teacher", [0.8]), model("b", "baseline", [0.6, 0.6])]
    models.append(model("d", "distilled", [0.7, 0.7], baselines=["b"]))
    for difference, p, shown in ((0.1, 0.01, True), (0.1, 0.3, False), (-0.1, 0.01, False)):
        sample = results(*models, comparisons=[Comparison("d", "b", difference, 2, (-0.02, 0.22), p)])
        assert any("gap" in label for _, label in pairs(sample)) == shown


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        ([model("b", "baseline", [0.6]), model("d", "distilled", [0.5], baselines=["b"])], []),
        ([model("t", "teacher", [0.6]), model("b", "baseline", [0.5])], []),
        ([model("t", "teacher", [0.6], None), model("d", "distilled", [0.5])], ["of the teacher’s accuracy"]),
        ([model("t", "teacher", [0.6], 10, 2.0), model("d", "distilled", [math.nan], 5)], ["smaller"]),
        ([model("t", "teacher", [0.0], None), model("d", "distilled", [0.5], 5, 1.0)], []),
    ],
)
def test_unknown_numbers_are_left_out(models, labels):
    assert [label for _, label in pairs(results(*models))] == labels


def test_harmed_students():
    clear, unclear = 0.01, 0.2
    comparisons = [
        Comparison("d", "b", -0.1, 3, (-0.2, -0.01), clear),
        Comparison("e", "b", -0.1, 3, (-0.3, 0.1), unclear),
        Comparison("f", "b", 0.1, 3, (0.01, 0.2), clear),
        Comparison("b", "c", -0.1, 3, (-0.2, -0.01), clear),
    ]
    models = [model(name, "baseline", [0.5]) for name in "bc"]
    models += [model(name, "distilled", [0.5], baselines=["b"]) for name in "def"]
    assert [each.model for each in harmed(results(*models, comparisons=comparisons))] == ["d"]
    assert [each.model for each in harmed(results(*models, comparisons=comparisons, score=RMSE))] == ["f"]


def test_ratios():
    assert [ratio_text(ratio) for ratio in (0.5, 1.04, 9.94, 9.96, 38.4, 1234)] == [
        "0.5x",
        "1.0x",
        "9.9x",
        "10x",
        "38x",
        "1,234x",
    ]
