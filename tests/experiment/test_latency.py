"""Prediction latency."""

import pytest

from keras_distill.experiment.latency import Latency, measure_latencies
from tests.support.helpers import data, mlp


@pytest.mark.case("C9")
def test_one_architecture_is_measured_once():
    models = {
        "teacher": mlp(64, name="teacher"),
        "baseline": mlp(name="a"),
        "distilled": mlp(name="b"),
        "other": mlp(9),
    }
    x, _ = data()
    latencies = measure_latencies(models, x, batch_size=40, repeats=3)
    assert list(latencies) == list(models)
    assert latencies["baseline"] == latencies["distilled"] and len(set(latencies.values())) == 3
    for latency in latencies.values():
        assert 0 < latency.low <= latency.median <= latency.high and latency.batch_size == 40


def test_text_has_three_digits():
    assert Latency(0.012345, 0.01, 0.02, 128).text() == "0.0123"
