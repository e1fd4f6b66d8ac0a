"""Outputs of a model for a split."""

import keras
import numpy as np
import pytest

from keras_distill.experiment import Data, LanguageModeling, prediction
from keras_distill.experiment.evaluation import Evaluator
from tests.support.helpers import features


def network(length):
    inputs = keras.Input((length, 3))
    return keras.Model(inputs, keras.layers.Dense(5)(inputs))


@pytest.mark.parametrize("length", [4, None])
def test_large_outputs_are_in_a_temporary_file(length, tmp_path, monkeypatch):
    x, y = features(10, 4, 3), np.random.default_rng(0).integers(0, 5, (10, 4))
    examples, model = Data((x, y), (x, y)).evaluation, network(length)
    kernel, bias = model.layers[-1].get_weights()
    evaluations = []
    for limit, folder in ((10 * 4 * 5 * 4, "small"), (10 * 4 * 5 * 4 - 1, "large")):
        monkeypatch.setattr(prediction, "_MOST_BYTES", limit)
        outputs = prediction.predict(model, examples, tmp_path / folder, batch_size=4)
        np.testing.assert_allclose(outputs, x @ kernel + bias, rtol=1e-5, atol=1e-6)
        assert isinstance(outputs, np.memmap) == (tmp_path / folder).exists() == (folder == "large")
        evaluations.append(Evaluator(LanguageModeling(), y, outputs).evaluate(outputs + 0))
    assert evaluations[0].score == pytest.approx(evaluations[1].score, rel=1e-6)
    assert not list((tmp_path / "large").iterdir())


def test_several_outputs_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "_MOST_BYTES", 1)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"a": keras.layers.Dense(2)(inputs), "b": keras.layers.Dense(1)(inputs)})
    x = features(6, 3)
    outputs = prediction.predict(model, Data((x, None), (x, None)).evaluation, tmp_path)
    assert {name: array.shape for name, array in outputs.items()} == {"a": (6, 2), "b": (6, 1)}
