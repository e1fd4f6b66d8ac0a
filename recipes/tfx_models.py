"""The functions that recipes/tfx_pipeline.py names: models, terms and preprocessing for its nodes.

A file of their own, since TFX imports them by name, and does the work again when this file changes.
"""

import keras
import tensorflow as tf
import tensorflow_transform as tft

from keras_distill import Term
from keras_distill.losses import KLDivergence

PIXELS = [f"pixel_{number:02}" for number in range(64)]


def preprocessing_fn(inputs):
    """What Transform makes of the digits' 64 columns: one feature, from 0 to 1."""
    pixels = tf.concat([tf.cast(inputs[name], "float32") for name in PIXELS], axis=-1)
    return {"pixels": tft.scale_to_0_1(pixels), "label": inputs["label"]}


def digits_teacher(hp):
    return _dense([256, 256], "teacher")


def digits_student(hp):
    return _dense([16], "student")


def pictures(features):
    """The pictures of Fashion-MNIST, of their bytes."""
    images = tf.io.decode_raw(features["image"], tf.uint8)
    return tf.reshape(tf.cast(images, "float32") / 255, (-1, 28, 28, 1))


def fashion_mnist_teacher(hp):
    return _convolutional(32, "teacher")


def fashion_mnist_student(hp):
    return _convolutional(6, "student")


def compiled(model, hp):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])


def terms(hp):
    temperature = hp.Float("temperature", 1.0, 8.0, sampling="log", default=2.0)
    return [Term(KLDivergence(temperature), weight=hp.Float("weight", 0.5, 2.0, default=1.0))]


def _dense(widths, name):
    hidden = [keras.layers.Dense(width, activation="relu", name=f"block_{i}") for i, width in enumerate(widths)]
    return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)], name=name)


def _convolutional(width, name):
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(width, 5, 2, padding="same", activation="relu"),
            keras.layers.Conv2D(2 * width, 3, 2, padding="same", activation="relu", name="block_0"),
            keras.layers.Conv2D(4 * width, 3, padding="same", activation="relu", name="block_1"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ],
        name=name,
    )
