"""Training of `MutualDistiller`: compile arguments, replicas, mixed precision, evaluation, saving and resuming."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import KLDivergence
from keras_distill.schedules import Linear
from keras_distill.teachers import Ensemble
from tests.support.helpers import assert_same_weights, compiled, data, fitted, mlp, weights_of
from tests.support.mutual import peers, predictions


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
    ],
    ids=["jit_compile", "run_eagerly", "steps_per_execution", "accumulation"],
)
def test_compile_arguments(options):
    (x, y), results = data(32), []
    accumulated = 2 if "optimizer" in options else 1
    for chosen, size in (({}, 8 * accumulated), (options, 8)):
        keras.utils.set_random_seed(0)
        models = peers(3)
        history = fitted(compiled(MutualDistiller(models), **chosen), x, y, batch_size=size)
        results.append((history, [weight for model in models.values() for weight in weights_of(model)]))
    assert_same_weights(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)
    if accumulated == 1:
        np.testing.assert_allclose(results[0][0]["loss"], results[1][0]["loss"], rtol=1e-5)


def test_two_replicas_match_one():
    (x, y), results = data(), []
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    for strategy in (tf.distribute.get_strategy(), two):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            models = peers(3, kernel_regularizer=keras.regularizers.L2(0.01))
            distiller = compiled(MutualDistiller(models), metrics=["accuracy"])
        history = fitted(distiller, x, y, epochs=3)
        results.append((history, [weight for model in models.values() for weight in weights_of(model)]))
    assert_same_weights(results[0][1], results[1][1])
    assert set(results[0][0]) == set(results[1][0])
    for name, values in results[0][0].items():
        np.testing.assert_allclose(values, results[1][0][name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("policies", [("float32", "mixed_float16"), ("mixed_bfloat16",) * 2])
def test_peers_with_different_dtype_policies(policies):
    models = {}
    for name, policy in zip("ab", policies):
        keras.config.set_dtype_policy(policy)
        models[name] = mlp(name=name)
    keras.config.set_dtype_policy("float32")
    distiller = compiled(MutualDistiller(models), keras.optimizers.SGD(0.05))
    history = fitted(distiller, *data(), epochs=4)
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    assert (type(distiller.optimizer).__name__ == "LossScaleOptimizer") == ("mixed_float16" in policies)
    assert {metric.variables[0].dtype for metric in distiller.metrics} == {"float32"}


def test_evaluate_changes_nothing_and_predict_returns_every_peer():
    (x, y), models = data(), {name: stateful_model(name) for name in "ab"}
    distiller = compiled(MutualDistiller(models))
    before = [weights_of(model) for model in models.values()]
    first, second = (distiller.evaluate(x, y, verbose=0, return_dict=True) for _ in range(2))
    assert first == second
    for old, model in zip(before, models.values()):
        assert_same_weights(old, weights_of(model), rtol=0, atol=0)
    predicted, expected = distiller.predict(x, verbose=0), predictions(models, x)
    assert list(predicted) == ["a", "b"]
    for name in predicted:
        np.testing.assert_allclose(predicted[name], expected[name], rtol=1e-5, atol=1e-6)
    Distiller(student=mlp(), teacher=Ensemble(distiller.peers), terms=[Term(KLDivergence())])


def stateful_model(name, width=8):
    """Return a model with batch normalization and dropout, whose seed generator state must be restored too."""
    layers = keras.layers
    hidden = [layers.Dense(width), layers.BatchNormalization(), layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(3)], name=name)


def test_resumed_training_is_bit_exact(tmp_path):
    x, y = data()
    distiller = MutualDistiller(
        [stateful_model("net", 4), stateful_model("net", 6)],
        KLDivergence(Linear(4.0, 1.0, 12)),
        Linear(0.5, 2.0, 12),
        0.5,
    )
    compiled(distiller, keras.optimizers.Adam(0.01), metrics=["accuracy"])
    fitted(distiller, x, y, epochs=2)
    distiller.save(tmp_path / "d.keras")
    uninterrupted = fitted(distiller, x, y, epochs=2)
    resumed = keras.saving.load_model(tmp_path / "d.keras")
    assert resumed.optimizer.iterations.numpy() == 6 and list(resumed.peers) == ["peer_0", "peer_1"]
    assert fitted(resumed, x, y, epochs=2) == uninterrupted
    for one, other in zip(distiller.peers.values(), resumed.peers.values()):
        assert_same_weights(weights_of(one), weights_of(other), rtol=0, atol=0)


def test_saved_peer_does_not_contain_the_others(tmp_path):
    small, giant = mlp(name="small"), mlp(4000, name="giant")
    distiller = compiled(MutualDistiller({"small": small, "giant": giant}))
    fitted(distiller, *data())
    distiller.peers["small"].save(tmp_path / "small.keras")
    assert (tmp_path / "small.keras").stat().st_size < 40_000
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded.predict(data()[0], verbose=0), small.predict(data()[0], verbose=0))
