"""Metrics of DistillationReport."""

import math

import numpy as np
import pytest

from keras_distill.pipelines.reporting import _ModelMetrics

pytestmark = pytest.mark.tfx


def test_known_metrics():
    # The first pair of probabilities is (1/2, 1/2) and (1/4, 3/4). The other two pairs are equal.
    teacher = np.float32([[0, 0], [1, 0], [0, 2]])
    student = np.float32([[0, math.log(3)], [1, 0], [0, 2]])
    metrics = _ModelMetrics(2, 1.0)
    # Two batches; the last example has no label.
    metrics.update(np.array([1, 1]), teacher[:2], student[:2])
    metrics.update(np.array([-1]), teacher[2:], student[2:])
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert metrics.metrics() == pytest.approx({"accuracy": 0.5, "agreement": 2 / 3, "divergence": divergence / 3})
    run = metrics.run()
    assert (run.errors, run.confusion) == (1, [[0, 0], [1, 1]])


def test_divergence_uses_the_temperature():
    # At T = 2 the probabilities are (1/2, 1/2) and (1/4, 3/4).
    metrics = _ModelMetrics(2, 2.0)
    metrics.update(np.array([0]), np.float32([[0, 0]]), np.float32([[0, 2 * math.log(3)]]))
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert metrics.metrics()["divergence"] == pytest.approx(divergence)
