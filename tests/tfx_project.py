"""A user's project, as the pipelines of the tests name it: eight numbers, three classes."""

import keras
from helpers import mlp

from keras_distill import Term
from keras_distill.losses import Hint, KullbackLeibler


def teacher(hp):
    return mlp(width=16, name="teacher")


def teacher_of_five_classes(hp):
    return mlp(width=16, classes=5, name="teacher")


def student(hp):
    return mlp(width=hp.Int("width", 3, 6, default=4))


def terms(hp):
    return [
        Term(KullbackLeibler(hp.Float("temperature", 1.0, 4.0, default=2.0))),
        Term(Hint(), "features", "features", head="auto", weight=0.1),
    ]


def output_term(hp):
    return [Term(KullbackLeibler(2.0))]


def several_teachers(hp):
    return [
        Term(KullbackLeibler(2.0), name="first"),
        Term(KullbackLeibler(2.0), teacher="half/output", name="half"),
        Term(KullbackLeibler(2.0), teacher="top/output", name="top"),
    ]


def halved(features):
    """What the model sees of the examples."""
    return features["x"] / 2


def slow_descent(model, hp):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
