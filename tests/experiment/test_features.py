"""Scores of features."""

import keras
import numpy as np
import pytest

from keras_distill import Term
from keras_distill.experiment import Arm, Data, Experiment, LinearProbe, Retrieval
from keras_distill.experiment.features import nearest_neighbors
from tests.support.helpers import data, features


def test_nearest_neighbors(monkeypatch):
    monkeypatch.setattr("keras_distill.experiment.features._ROWS", 3)
    rows = features(10, 4).astype("float64")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [max((j for j in range(10) if j != i), key=lambda j, i=i: unit[i] @ unit[j]) for i in range(10)]
    np.testing.assert_array_equal(nearest_neighbors(rows * np.arange(1, 11)[:, None]), expected)


def test_a_probe_does_not_see_the_labels_of_the_example():
    """Features that identify each example, but have nothing in common with its class, reach the level of chance."""
    labels = np.random.default_rng(0).integers(0, 2, 300)
    assert 0.4 < LinearProbe("x").evaluate(np.eye(300), labels) < 0.6
    informative = np.stack([labels + 0.1 * features(300), features(300, seed=1)], axis=1)
    assert LinearProbe("x").evaluate(informative, labels) == 1
    # The order and the scale of the features do not matter.
    order = np.argsort(labels)
    assert LinearProbe("x").evaluate(informative[order] * [1e-3, 1e3] + 5, labels[order]) == 1


def test_recall_at_1():
    embeddings = np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 3], [1, 1.1]])
    one_hot = np.eye(2)[[0, 0, 1, 1, 0]]
    # The last one is most similar to the fourth, (0.1, 3), of the other class; the second to the first.
    assert Retrieval("x").evaluate(embeddings, np.array([0, 0, 1, 1, 0])) == 0.8
    assert Retrieval("x", one_hot=True).evaluate(embeddings, one_hot) == 0.8
    assert Retrieval("x").agreement(embeddings, embeddings[:, ::-1] * 3) == 1


def network(width, name):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(width, activation="relu", name="features")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name=name)


def test_an_experiment_without_labels_of_the_student(tmp_path):
    x, y = data()
    arms = [
        Arm("baseline", lambda: network(4, "student"), epochs=1, batch_size=8),
        Arm(
            "distilled",
            lambda: network(4, "student"),
            lambda student, teacher: [Term("mse", "features", "features", head="auto")],
            supervised_weight=0.0,
            epochs=1,
            batch_size=8,
        ),
    ]
    results = Experiment(LinearProbe("features", folds=2), Data((x, y), (x, y)), network(8, "teacher"), arms).run(
        tmp_path
    )
    assert [model.name for model in results.models] == ["teacher", "baseline", "distilled"]
    assert (tmp_path / "report.html").exists()
    student = keras.saving.load_model(tmp_path / "student.keras")
    hidden = keras.ops.convert_to_numpy(keras.Model(student.inputs, student.get_layer("features").output)(x))
    score = LinearProbe("features", folds=2).evaluate(hidden, y)
    assert results.models[-1].runs[0].score == pytest.approx(score)


def test_layers_that_cannot_be_scored(tmp_path):
    model = network(4, "student")
    with pytest.raises(ValueError, match="'student' has no layer 'pool'.*Its layers are .*'features', 'logits'"):
        LinearProbe("pool").predictor(model)
    x, y = data()
    with pytest.raises(ValueError, match="'student' has no layer 'pool'"):
        LinearProbe("pool").check(model, y)
    # Before the teacher is trained.
    teacher = Arm("teacher", lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)], name="plain"))
    arms = [Arm("baseline", lambda: network(4, "student"))]
    with pytest.raises(ValueError, match="'plain' has no layer 'features'"):
        Experiment(LinearProbe("features"), Data((x, y), (x, y)), teacher, arms).run(tmp_path)
    inputs = keras.Input((4, 4, 1))
    maps = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="map")(inputs), name="maps")
    with pytest.raises(ValueError, match="scores vectors. The output of 'map' in 'maps' has the shape"):
        Retrieval("map").predictor(maps)
