"""Summary in sentences."""

import dataclasses
import math

import pytest

from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.score import Score
from keras_distill.experiment.verdict import evidence, p_text, verdict
from tests.report import samples


def model(name, role, scores, baselines=()):
    return ModelResult(name, role, 10, [Run(seed, score) for seed, score in enumerate(scores)], baselines=baselines)


def sentence_on(baseline, distilled, teacher=(0.99,), **changed):
    models = [
        model("T", "teacher", teacher),
        model("A", "baseline", baseline),
        model("D", "distilled", distilled, ["A"]),
    ]
    (sentence,) = verdict(samples.results(models=models, examples=[], **changed))
    return sentence


def test_distillation_helped():
    # Differences 0.035, 0.044, 0.026 with standard deviation 0.009: t = 0.035 / (0.009 / sqrt(3)) = 6.736, p = 0.0213;
    # half the interval is 4.3027 * 0.009 / sqrt(3) = 0.02236. The gap is 0.99 - 0.9.
    assert sentence_on([0.9, 0.89, 0.91], [0.935, 0.934, 0.936]) == (
        "Clearly better: accuracy 93.50 ± 0.10 % of “D” against 90.00 ± 1.00 % of “A” (+3.50 points, 95 % interval "
        "over 3 seeds +1.26 to +5.74, paired t-test p = 0.021). 39 % of the teacher-student gap is recovered."
    )


def test_distillation_did_not_help():
    sentence = sentence_on([0.9, 0.89, 0.91], [0.88, 0.871, 0.889])
    assert sentence.startswith("Clearly worse: accuracy 88.00 ± 0.90 % of “D”") and "-2.00 points" in sentence
    assert "gap" not in sentence


def test_lower_is_better():
    score = Score("RMSE", higher_is_better=False, percent=False, unit="m")
    sentence = sentence_on([0.9, 0.89, 0.91], [0.88, 0.871, 0.889], [0.86], score=score)
    assert sentence.startswith("Clearly better: RMSE 0.88 ± 0.009 m of “D”")
    assert sentence.endswith("50 % of the teacher-student gap is recovered.")


@pytest.mark.parametrize("distilled", [[0.901, 0.9], [0.91, 0.88], [0.9, 0.9]])
def test_no_clear_difference(distilled):
    sentence = sentence_on([0.9, 0.901], distilled)
    assert sentence.startswith("No clear difference: ") and "gap" not in sentence


def test_one_seed():
    sentence = sentence_on([0.9], [0.95])
    assert sentence.startswith("One seed does not show how much of the difference is chance: accuracy 95.00 % of “D”")
    assert "+5.00 points" in sentence and "interval" not in sentence


def test_teacher_no_better_than_the_baseline():
    sentence = sentence_on([0.9, 0.901], [0.92, 0.921], teacher=[0.8])
    assert sentence.endswith("The teacher is no better than the baseline, so there is no gap to recover.")


def test_scores_that_are_not_finite():
    sentence = sentence_on([0.9, 0.91], [math.nan, 0.92])
    assert sentence.startswith("No difference is defined, since a score is not finite") and "gap" not in sentence
    assert "gap" not in sentence_on([math.nan, 0.91], [0.93, 0.92])


def test_one_text_per_comparison():
    models = [model("A", "baseline", [0.8, 0.81]), model("B", "baseline", [0.9, 0.905])]
    models.append(model("D", "distilled", [0.85, 0.8601], ["A", "B"]))
    first, second = verdict(samples.results(models=models, examples=[]))
    assert "of “A”" in first and "of “B”" in second


def test_evidence_names_every_interval():
    sample = samples.results(seeds=6)
    (comparison,) = sample.comparisons
    comparison = dataclasses.replace(comparison, example_interval=(0.001, 0.03))
    text = evidence(sample, comparison)
    assert "95 % interval over 6 seeds" in text and "sign-flip test p = 0.031" in text
    assert text.endswith("95 % interval over test examples +0.10 to +3.00")


def test_p_values():
    assert [p_text(p) for p in (None, 0.0002, 0.0213, 1.0)] == ["p unknown", "p < 0.001", "p = 0.021", "p = 1"]


def test_without_a_baseline():
    assert verdict(samples.results(models=[model("D", "distilled", [0.5])], examples=[])) == []


@pytest.mark.parametrize(
    ("seen", "unseen", "teacher", "words"),
    [
        (0.999, 0.93, 0.97, "The baseline overfits (99.90 % in training, 93.00 % on the test examples)"),
        (0.932, 0.93, 0.97, "does not overfit (93.20 % in training, 93.00 % on the test examples)"),
        (
            0.87,
            0.84,
            0.97,
            "The baseline underfits (87.00 % in training, 84.00 % on the test examples), and the teacher",
        ),
        (0.12, 0.117, 0.09, "The teacher is worse than the baseline (9.00 % against 11.70 %). Check its weights"),
        (0.999, 0.93, 0.935, "hardly better than the baseline (93.50 % against 93.00 %)"),
    ],
)
def test_advice_where_nothing_was_gained(seen, unseen, teacher, words):
    runs = [Run(seed, unseen, {"accuracy": [0.1, seen]}) for seed in range(3)]
    models = [
        model("T", "teacher", [teacher]),
        ModelResult("A", "baseline", 10, runs),
        model("D", "distilled", [unseen + 1e-3, unseen - 1e-3, unseen], ["A"]),
    ]
    sentences = verdict(samples.results(models=models, examples=[]))
    assert len(sentences) == 2 and words in sentences[1]


def test_no_advice_where_distillation_helped_or_nothing_is_known():
    runs = [Run(seed, 0.93 + seed / 1000, {"accuracy": [0.999]}) for seed in range(3)]
    models = [model("T", "teacher", [0.99]), ModelResult("A", "baseline", 10, runs)]
    better = model("D", "distilled", [0.95, 0.951, 0.952], ["A"])
    assert len(verdict(samples.results(models=[*models, better], examples=[]))) == 1
    unknown = [models[0], model("A", "baseline", [0.93]), model("D", "distilled", [0.93], ["A"])]
    assert len(verdict(samples.results(models=unknown, examples=[]))) == 1
