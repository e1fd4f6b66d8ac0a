"""Peers and arguments that `MutualDistiller` accepts, and errors for the others."""

import warnings

import keras
import numpy as np
import pytest

from keras_distill import MutualDistiller
from keras_distill.losses import Hint
from tests.support.helpers import compiled, crossentropy, data, features, fitted, mlp, zero_rate_sgd
from tests.support.mutual import crossentropies, mutual_loss, peers, predictions


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
        (lambda: MutualDistiller({"a/b": mlp(), "c[0]": mlp()}), r"without '/'.*\['a/b', 'c\[0\]'\]"),
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
