"""`MutualDistiller`: deep mutual learning of two and more peers."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import DecoupledKD, Hint, KLDivergence
from keras_distill.schedules import Linear
from keras_distill.teachers import Ensemble
from tests.support.helpers import (
    assert_same_weights,
    compiled,
    crossentropy,
    data,
    features,
    fitted,
    mlp,
    softened_kl,
    softmax,
    weights_of,
)


def peers(count=2, **options):
    return {name: mlp(width, name=name, **options) for name, width in zip("abc", (4, 6, 8)[:count])}


def zero_rate_sgd():
    """Return SGD with a learning rate of 0: `fit` logs losses without changing weights."""
    return keras.optimizers.SGD(0.0)


def predictions(models, x):
    return {name: model.predict(x, verbose=0) for name, model in models.items()}


def crossentropies(logits, y):
    return -np.log(softmax(logits))[np.arange(len(y)), y]


def mutual_loss(logits, name, temperature=1.0):
    """Return the mean divergence from the other peers: equation 4 of the paper, or 7 for more than two peers."""
    return np.mean([softened_kl(logits[name], z, temperature) for other, z in logits.items() if other != name], axis=0)


@pytest.mark.parametrize("count", [2, 3])
def test_losses_match_the_paper(count):
    (x, y), models = data(21), peers(count)
    logits = predictions(models, x)
    logged = fitted(compiled(MutualDistiller(models, weight=0.7, supervised_weight=0.3), zero_rate_sgd()), x, y)
    for name in models:
        supervised, divergence = crossentropies(logits[name], y).mean(), mutual_loss(logits, name).mean()
        np.testing.assert_allclose(logged[f"{name}_supervised_loss"], [supervised], rtol=1e-5)
        np.testing.assert_allclose(logged[f"{name}_mutual_loss"], [divergence], rtol=1e-5)
        np.testing.assert_allclose(logged[f"{name}_loss"], [0.3 * supervised + 0.7 * divergence], rtol=1e-5)
    np.testing.assert_allclose(logged["loss"], sum(np.array(logged[f"{name}_loss"]) for name in models), rtol=1e-6)
    kinds = {f"{name}_{kind}loss" for name in models for kind in ("", "supervised_", "mutual_")}
    assert set(logged) == {"loss"} | kinds


@pytest.mark.parametrize("count", [2, 3])
def test_each_peer_is_updated_by_the_gradient_of_its_loss(count):
    """Check the update of the last layer: d KL(p_j || p_i) / d z_i = p_i - p_j, where p_j is a constant."""
    (x, y), models = data(), peers(count)
    before = {name: weights_of(model) for name, model in models.items()}
    p = {name: softmax(logits) for name, logits in predictions(models, x).items()}
    hidden = {name: np.maximum(x @ kernel + bias, 0) for name, (kernel, bias, *_) in before.items()}
    fitted(compiled(MutualDistiller(models), keras.optimizers.SGD(0.5)), x, y, batch_size=24)
    for name, model in models.items():
        others = np.mean([q for other, q in p.items() if other != name], axis=0)
        gradient = ((p[name] - np.eye(3)[y]) + (p[name] - others)) / 24
        kernel, bias = weights_of(model)[2:]
        np.testing.assert_allclose(kernel, before[name][2] - 0.5 * hidden[name].T @ gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(bias, before[name][3] - 0.5 * gradient.sum(axis=0), rtol=1e-4, atol=1e-6)


def test_two_peers_match_two_distillers():
    (x, y), models = data(), peers()
    copies = {name: keras.models.clone_model(model) for name, model in models.items()}
    for name, model in models.items():
        copies[name].set_weights(weights_of(model))
    expected = []
    for student, teacher in (("a", "b"), ("b", "a")):
        clone = keras.models.clone_model(models[student])
        clone.set_weights(weights_of(models[student]))
        fitted(
            compiled(Distiller(student=clone, teacher=copies[teacher], terms=[Term(KLDivergence(1.0))])),
            x,
            y,
            batch_size=24,
        )
        expected.append(weights_of(clone))
    fitted(compiled(MutualDistiller(models)), x, y, batch_size=24)
    for model, weights in zip(models.values(), expected):
        assert_same_weights(weights_of(model), weights)


def test_custom_loss_and_weight_schedules():
    (x, y), models = data(), peers(3)
    logits = predictions(models, x)
    distiller = MutualDistiller(models, KLDivergence(3.0), Linear(0.5, 2.5, 2), Linear(1.0, 0.0, 2))
    logged = fitted(compiled(distiller, zero_rate_sgd()), x, y)
    weights, supervised_weights = np.repeat([0.5, 1.5, 2.5], 8), np.repeat([1.0, 0.5, 0.0], 8)
    for name in models:
        expected = supervised_weights * crossentropies(logits[name], y) + weights * mutual_loss(logits, name, 3.0)
        np.testing.assert_allclose(logged[f"{name}_loss"], [expected.mean()], rtol=1e-5)
    # A loss that uses the labels.
    assert np.isfinite(fitted(compiled(MutualDistiller(peers(), DecoupledKD())), x, y)["loss"]).all()


def test_losses_decrease_and_metrics_are_per_peer():
    (x, y), models = data(64), peers(3)
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    distiller = compiled(
        MutualDistiller(models), keras.optimizers.Adam(0.02), metrics=[accuracy], weighted_metrics=["accuracy"]
    )
    history = fitted(distiller, x, y, epochs=40, validation_data=(x, y))
    for name in models:
        assert history[f"{name}_supervised_loss"][-1] < 0.8 * history[f"{name}_supervised_loss"][0]
        assert history[f"{name}_mutual_loss"][-1] < 0.7 * history[f"{name}_mutual_loss"][0]
    for name, logits in predictions(models, x).items():
        expected = np.mean(logits.argmax(axis=-1) == y)
        assert history[f"val_{name}_accuracy"][-1] == pytest.approx(expected)
        assert history[f"val_{name}_weighted_accuracy"][-1] == pytest.approx(expected)


def test_sample_weights_apply_to_all_losses():
    (x, y), models, weight = data(), peers(), np.arange(24, dtype="float32")
    logits = predictions(models, x)
    logged = fitted(compiled(MutualDistiller(models), zero_rate_sgd()), x, y, sample_weight=weight)
    for name in models:
        np.testing.assert_allclose(
            logged[f"{name}_mutual_loss"], [np.mean(weight * mutual_loss(logits, name))], rtol=1e-5
        )
        supervised = np.mean(weight * crossentropies(logits[name], y))
        np.testing.assert_allclose(logged[f"{name}_supervised_loss"], [supervised], rtol=1e-5)


def test_unlabeled_examples_count_in_the_mutual_loss():
    (x, y), models, labeled = data(), peers(), np.arange(24) % 3 > 0
    logits = predictions(models, x)
    distiller = compiled(MutualDistiller(models), zero_rate_sgd(), metrics=["accuracy"])
    logged = fitted(distiller, x, np.where(labeled, y, -1), batch_size=24)
    for name in models:
        np.testing.assert_allclose(logged[f"{name}_mutual_loss"], [mutual_loss(logits, name).mean()], rtol=1e-5)
        supervised = crossentropies(logits[name], y)[labeled].mean()
        np.testing.assert_allclose(logged[f"{name}_supervised_loss"], [supervised], rtol=1e-5)
        accuracy = np.mean((logits[name].argmax(axis=-1) == y)[labeled])
        np.testing.assert_allclose(logged[f"{name}_accuracy"], [accuracy], rtol=1e-6)


def test_training_without_labels():
    x, distiller = data()[0], MutualDistiller(peers())
    distiller.compile(keras.optimizers.SGD(0.5))
    history = fitted(distiller, x, epochs=5)
    assert set(history) == {"loss", "a_loss", "b_loss", "a_mutual_loss", "b_mutual_loss"}
    assert history["loss"][-1] < history["loss"][0]


def test_padded_tokens_are_excluded():
    def model(width, name):
        embedding = keras.layers.Embedding(9, width, mask_zero=True)
        return keras.Sequential([keras.Input((3,), dtype="int32"), embedding, keras.layers.Dense(4)], name=name)

    x, models = np.array([[1, 2, 0], [3, 0, 0]]), {"a": model(3, "a"), "b": model(5, "b")}
    logits = predictions(models, x)
    logged = fitted(compiled(MutualDistiller(models), zero_rate_sgd()), x, np.zeros((2, 3), int))
    kl = softened_kl(logits["a"], logits["b"], 1.0)
    np.testing.assert_allclose(logged["a_mutual_loss"], [(kl[0, :2].mean() + kl[1, 0]) / 2], rtol=1e-5)


def test_regularization_losses_are_per_peer():
    (x, y), models = data(), peers()
    models["a"] = mlp(4, name="a", kernel_regularizer=keras.regularizers.L2(0.1))
    penalty = 0.1 * np.sum(models["a"].get_layer("features").kernel.numpy() ** 2)
    logged = fitted(compiled(MutualDistiller(models), zero_rate_sgd()), x, y)
    parts = {name: logged[f"{name}_supervised_loss"][0] + logged[f"{name}_mutual_loss"][0] for name in models}
    np.testing.assert_allclose(logged["a_loss"], [parts["a"] + penalty], rtol=1e-5)
    np.testing.assert_allclose(logged["b_loss"], [parts["b"]], rtol=1e-5)


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


def test_unbuilt_peers():
    x, y = data()
    models = [keras.Sequential([keras.layers.Dense(3)], name=name) for name in "ab"]
    with pytest.raises(ValueError, match="The input shapes of 'a' and 'b' are unknown"):
        MutualDistiller(models)
    assert fitted(compiled(MutualDistiller(models, inputs=x)), x, y)["loss"][0] > 0


@pytest.mark.parametrize("taps", [{}, {"logits": "logits"}], ids=["of the output", "of a layer"])
def test_peers_with_a_softmax_output(taps):
    (x, y), models = data(), peers()
    logits = predictions(models, x)
    for model in models.values():
        model.add(keras.layers.Softmax())
    distiller = MutualDistiller(models, **taps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller.compile(zero_rate_sgd(), "sparse_categorical_crossentropy")
    logged = fitted(distiller, x, y)
    np.testing.assert_allclose(logged["a_mutual_loss"], [mutual_loss(logits, "a").mean()], rtol=1e-5)
    np.testing.assert_allclose(logged["a_supervised_loss"], [crossentropies(logits["a"], y).mean()], rtol=1e-5)


def test_peers_with_several_outputs():
    def model(name):
        inputs = keras.Input((8,))
        outputs = {part: keras.layers.Dense(n, name=part)(inputs) for part, n in (("topic", 3), ("tone", 2))}
        return keras.Model(inputs, outputs, name=name)

    (x, topic), models = data(), {name: model(name) for name in "ab"}
    with pytest.raises(ValueError, match=r"Peer 'a' returns a structure.*logits='output\[(topic|tone)\]'"):
        MutualDistiller(models)
    distiller = MutualDistiller(models, logits="output[tone]")
    losses = {"topic": crossentropy(), "tone": crossentropy()}
    distiller.compile("sgd", losses, metrics={"topic": ["accuracy"]})
    history = fitted(distiller, x, {"topic": topic, "tone": topic % 2}, epochs=2)
    assert {"a_topic_loss", "b_tone_loss", "a_topic_accuracy"} <= set(history)


def test_cross_entropy_without_from_logits_warns():
    with pytest.warns(UserWarning, match="from_logits=True"):
        MutualDistiller(peers()).compile("sgd", "sparse_categorical_crossentropy")


def peers_with_shared_layers():
    first = mlp(name="first")
    return {"a": first, "b": keras.Sequential([keras.Input((8,)), *first.layers], name="twin")}


def peers_with_nan_weights():
    models = peers()
    models["b"].get_layer("logits").kernel.assign(np.full((6, 3), np.nan))
    return models


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MutualDistiller([mlp()]), r"needs at least two peers. Received: \['peer_0'\]"),
        (lambda: MutualDistiller([]), "needs at least two peers"),
        (lambda: MutualDistiller(mlp()), "must be a list of models or a dictionary.*Received: <Sequential"),
        (lambda: MutualDistiller({"a": mlp(), "b": lambda x: x}), "Each peer must be a keras.Model. Received: {'b'"),
        (lambda: MutualDistiller({"": mlp(), 3: mlp()}), r"needs a non-empty name.*\['', 3\]"),
        (lambda: MutualDistiller([mlp()] * 2), "'peer_0' and 'peer_1' share one model"),
        (lambda: MutualDistiller(peers_with_shared_layers()), "'a' and 'b' share the weights.*features/kernel"),
        (lambda: MutualDistiller(peers_with_nan_weights()), "logits/kernel'] of peer 'b' contain NaN"),
        (
            lambda: MutualDistiller({"a": mlp(), "b": mlp(classes=4)}),
            r"same classes.*'a': \(None, 3\), 'b': \(None, 4\)",
        ),
        (
            lambda: MutualDistiller({"a": mlp(), "a_mutual": mlp()}),
            r"\['a', 'a_mutual'\] make the names of the logs ambiguous",
        ),
        (lambda: MutualDistiller(peers(), Hint()), "must be a loss of logits"),
        (lambda: MutualDistiller(peers(), "kl"), "must be a loss of logits.*Received: 'kl'"),
        (lambda: MutualDistiller(peers(), weight=0), "`weight` must be a finite number"),
        (lambda: MutualDistiller(peers(), supervised_weight=-1), "`supervised_weight` must be a finite number"),
        (lambda: MutualDistiller(peers(), logits="logit"), "No layer called 'logit' in 'a'. Closest: .'logits'"),
        (lambda: MutualDistiller(peers(), mask="padding"), "is the input 'padding', which does not exist"),
        (lambda: MutualDistiller([mlp(classes=1, name=n) for n in "ab"]), "two classes or more"),
    ],
)
def test_invalid_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_predictions_per_pixel():
    def model(channels, name):
        return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(channels, 1)], name=name)

    x, models = features(8, 4, 4, 1), {name: model(3, name) for name in "ab"}
    logits = predictions(models, x)
    logged = fitted(compiled(MutualDistiller(models), zero_rate_sgd()), x, np.zeros((8, 4, 4), int))
    np.testing.assert_allclose(logged["b_mutual_loss"], [mutual_loss(logits, "b").mean()], rtol=1e-4)
