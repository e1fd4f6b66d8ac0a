"""Models and data for training with any loss."""

import inspect

import keras
import numpy as np

from keras_distill import Distiller, Term, losses
from keras_distill.data.batch import with_index
from keras_distill.losses import DistillationLoss

CLASSES = 4
LOSSES = {
    name: cls
    for name, cls in inspect.getmembers(losses, inspect.isclass)
    if issubclass(cls, DistillationLoss) and cls is not DistillationLoss
}
# Taps of losses of several activations.
SPECIAL = {
    "AttentionScores": (("query", "key"),) * 2,
    "AttentionRelation": (("query", "key"),) * 2,
    "FSP": (("map", "deeper"),) * 2,
}
SETTINGS = {
    "ContrastiveRepresentation": {"size": 8, "dim": 4},
    # A low temperature magnifies rounding errors.
    "InteractiveContrastive": {"temperature": 0.5},
    "QueueSimilarity": {"size": 8, "temperature": 0.5},
    "LossAdapter": {"loss": "mse"},
    "Chunked": {"loss": losses.KLDivergence(), "student_layer": "logits", "teacher_layer": "logits"},
}


def network(name, **options):
    """Return a model of 6x6 images with feature maps, tokens, queries and keys, a vector and logits."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="map", **options)(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="tanh", name="deeper")(x)
    tokens = keras.layers.Reshape((36, 4), name="tokens")(x)
    query = keras.layers.Reshape((36, 2, 2), name="query")(keras.layers.Dense(4)(tokens))
    key = keras.layers.Reshape((36, 2, 2), name="key")(keras.layers.Dense(4)(keras.layers.Reshape((36, 4))(query)))
    vector = keras.layers.Dense(5, activation="tanh", name="vector")(keras.layers.Flatten()(key))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(vector), name=name)


def taps_of(cls):
    """Return taps of the lowest rank that a loss accepts."""
    if cls.__name__ in SPECIAL:
        return SPECIAL[cls.__name__]
    if cls.logits:
        return "output", "output"
    for tap, shape in (("vector", (None, 5)), ("tokens", (None, 36, 4)), ("map", (None, 6, 6, 4))):
        try:
            if getattr(cls, "rank", None) in (None, len(shape)):
                cls(**SETTINGS.get(cls.__name__, {})).build(shape, shape)
                return tap, tap
        except ValueError:
            continue
    raise AssertionError(f"{cls.__name__} accepts none of the model's activations")


def distiller_with(name):
    """Return a distiller with a single term."""
    loss = LOSSES[name](**SETTINGS.get(name, {}))
    taps = ("vector", "vector") if name == "Chunked" else taps_of(LOSSES[name])
    return Distiller(student=network("student"), teacher=network("teacher"), terms=[Term(loss, *taps)])


def images(count, name=None):
    """Return images, with an index if the loss requires one, and class indices."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(count, 6, 6, 2)).astype("float32"), random.integers(0, CLASSES, count)
    return with_index(x, np.arange(count)) if name == "ContrastiveRepresentation" else x, y
