"""Summary in sentences."""

import pytest

from keras_distill.report import ModelResult, Run
from keras_distill.report.verdict import verdict
from tests.report import samples


def model(name, role, errors, parameters=10, baseline=None):
    runs = [Run(seed, 1 - number / 1000, number) for seed, number in enumerate(errors)]
    return ModelResult(name, role, parameters, runs, baseline=baseline)


def sentence_on(baseline, distilled, teacher=(10,), parameters=10):
    models = [
        model("T", "teacher", teacher),
        model("A", "baseline", baseline),
        model("D", "distilled", distilled, parameters=parameters),
    ]
    (sentence,) = verdict(samples.results(models=models, examples=[]))
    return sentence


def test_distillation_helped():
    assert sentence_on([100, 110, 90], [65, 66, 64]) == (
        "The distilled student makes 35 % fewer errors than the same network trained without a teacher "
        "(65 against 100; means of 3 seeds). 39 % of the teacher-student gap in accuracy is recovered."
    )


def test_distillation_did_not_help():
    sentence = sentence_on([100, 101, 99], [120, 121, 119])
    assert sentence == (
        "Distillation did not help here: the distilled student makes 20 % more errors than the same network trained "
        "without a teacher (120 against 100; means of 3 seeds)."
    )


def test_distillation_made_no_difference():
    assert sentence_on([100, 101], [101, 100]).startswith("Distillation made no difference here: ")


@pytest.mark.parametrize("distilled", [[95, 96, 94], [105, 106, 104], [100.5, 80, 115]])
def test_within_the_spread_of_the_seeds(distilled):
    # Sample standard deviation of 90, 100, 110: 10.
    sentence = sentence_on([90, 100, 110], distilled)
    assert sentence.startswith("No clear difference: ") and "the seeds differ as much" in sentence
    assert "gap in accuracy" not in sentence


def test_just_outside_the_spread():
    assert sentence_on([90, 100, 110], [89, 89, 89]).startswith("The distilled student makes 11 % fewer errors")


def test_one_seed():
    sentence = sentence_on([100], [50])
    assert "50 % fewer" in sentence and "one seed)" in sentence and "chance" in sentence


def test_different_numbers_of_seeds():
    assert "means of 1 and 3 seeds" in sentence_on([100], [50, 51, 49])


def test_teacher_no_better_than_the_baseline():
    sentence = sentence_on([100, 101], [80, 81], teacher=[200])
    assert "The teacher is no better" in sentence and "gap in accuracy" not in sentence


def test_different_networks_are_named():
    assert "errors than “A”" in sentence_on([100], [50], parameters=11)


def test_baseline_without_errors():
    assert "makes more errors than" in sentence_on([0], [3], teacher=[0])
    assert "as many errors as" in sentence_on([0], [0], teacher=[0])


def test_one_text_per_student():
    models = [model("A", "baseline", [10]), model("D", "distilled", [5]), model("E", "distilled", [20])]
    first, second = verdict(samples.results(models=models, examples=[]))
    assert first.startswith("“D” makes 50 % fewer") and second.startswith("Distillation did not help here: “E” makes")


def test_without_a_baseline():
    assert verdict(samples.results(models=[model("D", "distilled", [5])], examples=[])) == []
