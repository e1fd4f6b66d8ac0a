"""Losses of `MutualDistiller`: deep mutual learning of two and more peers."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import DecoupledKD, KLDivergence
from keras_distill.schedules import Linear
from tests.support.helpers import (
    assert_same_weights,
    compiled,
    data,
    fitted,
    mlp,
    softened_kl,
    softmax,
    weights_of,
    zero_rate_sgd,
)
from tests.support.mutual import crossentropies, mutual_loss, peers, predictions


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
