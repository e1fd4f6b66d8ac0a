"""Teachers and students of common sizes, with random inputs. The benchmarks measure only time."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_distill import Term
from keras_distill.losses import AttentionTransfer, CosineSimilarity, HiddenState, Hint, SimilarityPreserving

CLASSES = 10


class Pair(NamedTuple):
    """Teacher and student.

    Attributes:
        teacher: Function that returns the teacher, a functional model.
        student: Function that returns the student.
        shape: Shape of one input.
        batch: Batch size.
        features: Function that returns three terms between intermediate layers.
        layers: Two layers of the same shape, the student's and the teacher's.
    """

    teacher: Callable
    student: Callable
    shape: tuple
    batch: int
    features: Callable
    layers: tuple


def dense(name, *widths):
    inputs = x = keras.Input((784,))
    for number, width in enumerate(widths):
        x = keras.layers.Dense(width, activation="relu", name=f"hidden_{number}")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def convolutional(name, depth, *widths, size=32):
    inputs = x = keras.Input((size, size, 3))
    for number, width in enumerate(widths):
        for layer in range(depth):
            x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
            last = "" if layer < depth - 1 else f"block_{number}"
            x = keras.layers.ReLU(name=last or None)(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Dense(64, name="embedding")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def transformer(name, layers, width=128, heads=4, tokens=64):
    inputs = x = keras.Input((tokens, width))
    for number in range(layers):
        attended = keras.layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = keras.layers.LayerNormalization()(x + attended)
        inner = keras.layers.Dense(width)(keras.layers.Dense(4 * width, activation="gelu")(x))
        x = keras.layers.LayerNormalization(name=f"block_{number}")(x + inner)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def dense_features():
    return [
        Term(SimilarityPreserving(), "hidden_0", "hidden_0", weight=0.1),
        Term(Hint(), "hidden_1", "hidden_2", weight=0.1),
        Term(CosineSimilarity(), "hidden_1", "hidden_2", weight=0.1),
    ]


def convolutional_features(blocks=3):
    return [Term(AttentionTransfer(), f"block_{number}", f"block_{number}", weight=0.1) for number in range(blocks)]


def transformer_features():
    return [Term(HiddenState(), f"block_{s}", f"block_{t}", weight=0.1) for s, t in ((0, 1), (1, 3), (2, 5))]


PAIRS = {
    "dense 2400 -> 1200": Pair(
        lambda: dense("teacher", 2400, 2400, 1200),
        lambda: dense("student", 1200, 1200),
        (784,),
        128,
        dense_features,
        ("hidden_1", "hidden_2"),
    ),
    # Depth and width of common CIFAR networks, without residual connections.
    "convolutional 18 -> 6 layers of 16-32-64": Pair(
        lambda: convolutional("teacher", 6, 16, 32, 64),
        lambda: convolutional("student", 2, 16, 32, 64),
        (32, 32, 3),
        64,
        convolutional_features,
        ("embedding", "embedding"),
    ),
    "transformer 6 -> 3 layers of 128": Pair(
        lambda: transformer("teacher", 6),
        lambda: transformer("student", 3),
        (64, 128),
        32,
        transformer_features,
        ("block_2", "block_5"),
    ),
}


def examples(pair, count):
    """Return noise and class indices, `(inputs, labels)`."""
    random = np.random.default_rng(0)
    return random.normal(size=(count, *pair.shape)).astype("float32"), random.integers(0, CLASSES, count)
