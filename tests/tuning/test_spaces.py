"""Search spaces of temperatures, weights, widths, depths, layer pairs and optimizers."""

import keras
import keras_tuner
import numpy as np
import pytest

from keras_distill import Term, mapping
from keras_distill.losses import Hint
from keras_distill.tuning import spaces
from tests.support.searches import hypermodel, logit_terms, random_search, search, states


def samples(space, count=200):
    """Return values of a search space, sampled by KerasTuner."""
    values = []
    for seed in range(count):
        hp = keras_tuner.HyperParameters()
        space(hp)
        for parameter in hp.space:
            if hp.is_active(parameter):
                hp.values[parameter.name] = parameter.random_sample(seed)
        values.append(space(hp))
        assert space(hp) == values[-1]
    return values


def test_numeric_spaces():
    temperatures = np.array(samples(spaces.temperature))
    assert temperatures.min() >= 1 and temperatures.max() <= 16
    # About half of the values are below the geometric mean.
    assert 60 < (temperatures < 4).sum() < 140
    alphas = np.array(samples(spaces.alpha))
    assert alphas.min() >= 0 and alphas.max() <= 0.9 and 60 < (alphas < 0.45).sum() < 140
    weights = np.array(samples(lambda hp: spaces.weight(hp, "hint", 50.0)))
    assert weights.min() >= 5 and weights.max() <= 500 and 60 < (weights < 50).sum() < 140
    assert set(samples(lambda hp: spaces.width(hp, 8, 64))) == {8, 16, 32, 64}
    assert set(samples(lambda hp: spaces.depth(hp, 2, 4))) == {2, 3, 4}


def test_default_hyperparameters():
    hp = keras_tuner.HyperParameters()
    assert (spaces.temperature(hp), spaces.alpha(hp), spaces.weight(hp, "hint", 50.0)) == (1.0, 0.5, 50.0)
    assert set(hp.values) == {"temperature", "alpha", "hint_weight"}
    assert spaces.layer_pairs(hp, ["a"], ["b", "c"]) == [("a", "c")]


def test_layer_pairs():
    def pairs(name, students, teachers):
        hp = keras_tuner.HyperParameters()
        hp.values["layer_pairs"] = name
        return spaces.layer_pairs(hp, list(students), list(teachers))

    assert pairs("uniform", "ab", "1234") == mapping.uniform(["a", "b"], ["1", "2", "3", "4"])
    # Layer i of 3 is paired with layer i * 4 / 3, rounded up: 1.33, 2.67 and 4.
    assert pairs("uniform", "abc", "1234") == [("a", "2"), ("b", "3"), ("c", "4")]
    assert pairs("last", "ab", "1234") == [("a", "3"), ("b", "4")]
    assert pairs("first", "ab", "1234") == [("a", "1"), ("b", "2")]
    assert pairs("final", "ab", "1234") == [("b", "4")]
    message = (
        "^`layer_pairs` needs at least as many teacher layers as student layers. Pass fewer `student_layers`. "
        "Received: 3 student layers, 2 teacher layers$"
    )
    with pytest.raises(ValueError, match=message):
        pairs("uniform", "abc", "12")


def test_learning_rates_of_each_optimizer():
    kinds = {}
    for optimizer in optimizer_samples(steps=None):
        kinds.setdefault(type(optimizer), []).append(float(optimizer.learning_rate))
    assert set(kinds) == {keras.optimizers.Adam, keras.optimizers.SGD}
    adam, sgd = (kinds[kind] for kind in (keras.optimizers.Adam, keras.optimizers.SGD))
    assert min(adam) >= 1e-4 and max(adam) <= 1e-2 <= min(sgd) and max(sgd) <= 1
    for optimizer in optimizer_samples(steps=10, count=5):
        optimizer.iterations.assign(10)
        assert float(optimizer.learning_rate) == 0


def optimizer_samples(steps, count=40):
    optimizers = []
    for seed in range(count):
        hp = keras_tuner.HyperParameters()
        hp.values["optimizer"] = ("adam", "sgd")[seed % 2]
        spaces.optimizer(hp)
        for parameter in hp.space[1:]:
            if hp.is_active(parameter):
                hp.values[parameter.name] = parameter.random_sample(seed)
        optimizers.append(spaces.optimizer(hp, steps))
    return optimizers


def student_of_variable_depth(hp):
    layers = [keras.layers.Dense(8, activation="relu", name=f"block_{n}") for n in range(spaces.depth(hp, 1, 2))]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)], name="student")


def test_width_depth_layers_and_optimizer_in_one_search(tmp_path):
    blocks = [keras.layers.Dense(6, activation="relu", name=f"block_{number}") for number in range(3)]
    teacher = keras.Sequential([keras.Input((8,)), *blocks, keras.layers.Dense(3)], name="teacher")

    def terms(hp):
        student_layers = [f"block_{number}" for number in range(spaces.depth(hp, 1, 2))]
        pairs = spaces.layer_pairs(hp, student_layers, mapping.layers(teacher, "block_*"))
        hints = [Term(Hint(), s, t, head="auto", weight=spaces.weight(hp, "hint", 0.1)) for s, t in pairs]
        return [*logit_terms(hp), *hints]

    model = hypermodel(student=student_of_variable_depth, teacher=teacher, terms=terms, optimizer=spaces.optimizer)
    tuner = search(random_search(model, tmp_path, 4))
    assert states(tuner) == ["COMPLETED"] * 4
    assert {len(model.student.layers) for model in tuner.get_best_models(4)} == {2, 3}
