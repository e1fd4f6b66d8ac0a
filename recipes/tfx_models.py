"""Models, terms and preprocessing of recipes/tfx_pipeline.py.

They are in a separate file because TFX imports them by name. A change of this file reruns the nodes that use it.
"""

import keras
import keras_tuner
import tensorflow as tf
import tensorflow_transform as tft

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence

PIXELS = [f"pixel_{number:02}" for number in range(64)]


def preprocessing_fn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Combine the 64 pixel columns of the digits into one feature, scaled to [0, 1]. For the Transform node."""
    pixels = tf.concat([tf.cast(inputs[name], "float32") for name in PIXELS], axis=-1)
    return {"pixels": tft.scale_to_0_1(pixels), "label": inputs["label"]}


def digits_teacher(hp: keras_tuner.HyperParameters) -> keras.Model:
    return _dense([256, 256], "teacher")


def digits_student(hp: keras_tuner.HyperParameters) -> keras.Model:
    return _dense([16], "student")


def decode_images(features: dict[str, tf.Tensor]) -> tf.Tensor:
    """Decode the images of Fashion-MNIST from their bytes, and scale them to [0, 1]."""
    images = tf.io.decode_raw(features["image"], tf.uint8)
    return tf.reshape(tf.cast(images, "float32") / 255, (-1, 28, 28, 1))


def fashion_mnist_teacher(hp: keras_tuner.HyperParameters) -> keras.Model:
    return _convolutional(32, "teacher")


def fashion_mnist_student(hp: keras_tuner.HyperParameters) -> keras.Model:
    return _convolutional(6, "student")


def compile_model(model: Distiller, hp: keras_tuner.HyperParameters) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])


def terms(hp: keras_tuner.HyperParameters) -> list[Term]:
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
