"""Small models and data that are trained on one and on several replicas."""

import keras
import numpy as np

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence, SimilarityPreserving
from tests.support.loss_models import CLASSES
from tests.support.replica_comparison import EXAMPLES


def dense(name, **options):
    """Return a dense network from 8 features to logits. Unlike convolutions on a CPU, it accepts an empty batch."""
    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="tanh", name="features", **options)(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def numbers(count=EXAMPLES):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 8)).astype("float32"), random.integers(0, CLASSES, count)


def both(**options):
    """Return a distiller with a term of the logits, and a term that compares all examples of the batch."""
    terms = [Term(KLDivergence()), Term(SimilarityPreserving(), "features", "features")]
    return Distiller(
        student=dense("student", **options.pop("student", {})), teacher=dense("teacher"), terms=terms, **options
    )


def tokens(name):
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(20, 6, mask_zero=True)(inputs)
    x = keras.layers.Dense(6, name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)
