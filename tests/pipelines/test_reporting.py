"""Metrics of DistillationReport."""

import math

import numpy as np
import pytest

from keras_distill.experiment import Classification, Regression
from keras_distill.experiment.evaluation import Evaluator
from keras_distill.pipelines.reporting import _comparisons, _metrics

pytestmark = pytest.mark.tfx

# The first pair of probabilities is (1/2, 1/2) and (1/4, 3/4). The other two pairs are equal.
TEACHER = np.float32([[0, 0], [1, 0], [0, 2]])
STUDENT = np.float32([[0, math.log(3)], [1, 0], [0, 2]])
DIVERGENCE = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)


def metrics(labels, temperature):
    outputs = {"teacher": TEACHER, "distilled": STUDENT}
    evaluator = Evaluator(Classification(), labels, TEACHER)
    evaluations = {name: evaluator.evaluate(values) for name, values in outputs.items()}
    return _metrics(evaluations, "accuracy", outputs, temperature), evaluations


def test_known_metrics():
    # The last example has no label: it counts for agreement and divergence.
    values, evaluations = metrics(np.array([1, 1, -1]), 1.0)
    assert values == pytest.approx(
        {
            "teacher, accuracy": 0.0,
            "distilled, accuracy": 0.5,
            "distilled, agreement": 2 / 3,
            "distilled, divergence": DIVERGENCE / 3,
        }
    )
    assert evaluations["distilled"].confusion == [[0, 0], [1, 1]]


def test_divergence_uses_the_temperature():
    values, _ = metrics(np.array([0, 0, 0]), 2.0)
    one, other = (np.exp(logits / 2) / np.exp(logits / 2).sum(-1, keepdims=True) for logits in (TEACHER, STUDENT))
    assert values["distilled, divergence"] == pytest.approx((one * np.log(one / other)).sum(-1).mean(), rel=1e-5)


def test_the_difference_from_the_baseline_has_an_interval_over_examples():
    random = np.random.default_rng(0)
    labels = random.normal(size=50).astype("float32")
    outputs = {
        name: labels[:, None] + random.normal(0, noise, (50, 1))
        for name, noise in (("distilled", 0.1), ("baseline", 1))
    }
    evaluator = Evaluator(Regression(), labels, labels[:, None])
    evaluations = {name: evaluator.evaluate(values) for name, values in outputs.items()}
    (comparison,) = _comparisons(Regression(), evaluations)
    low, high = comparison.example_interval
    assert low < comparison.difference < high < 0 and comparison.p is None
