"""Evaluation of trained models for a report."""

import keras
import numpy as np
import pytest

from keras_distill.report import evaluation
from tests.support.helpers import data, mlp


def network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)], name="student")


def test_profiles_have_the_accuracy_of_each_seed(tmp_path):
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(200, 8)).astype("float32"), random.integers(0, 4, 200)
    models = {"teacher": [network(0)], "small one": [network(1), network(2), network(3)]}
    files = {"small one": ["keras", "litert_float32"], "teacher": ["keras"]}
    profiles = evaluation.profile_models(models, files, x[:50], x, labels, tmp_path)
    assert [(profile.model, profile.format) for profile in profiles] == [
        ("small one", "keras"),
        ("small one", "litert_float32"),
        ("teacher", "keras"),
    ]
    for profile in profiles:
        expected = [np.mean(np.argmax(model(x), -1) == labels) for model in models[profile.model]]
        np.testing.assert_allclose(profile.accuracies, expected, rtol=1e-9)
    assert len(set(profiles[0].accuracies)) > 1
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == [
        *(f"small_one_{seed}.keras" for seed in range(3)),
        "teacher_0.keras",
    ]


@pytest.mark.case("C9")
def test_one_architecture_is_measured_once():
    models = {
        "teacher": mlp(64, name="teacher"),
        "baseline": mlp(name="a"),
        "distilled": mlp(name="b"),
        "other": mlp(9),
    }
    x, _ = data()
    times = evaluation.prediction_milliseconds(models, x, repeats=3)
    assert list(times) == list(models)
    assert times["baseline"] == times["distilled"] and len(set(times.values())) == 3
