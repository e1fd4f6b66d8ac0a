"""Handwritten digits, offline: a convolutional network teaches a tiny dense one.

Run:    python -m recipes.digits
"""

import keras

from keras_distill import Term
from keras_distill.losses import KullbackLeibler
from recipes import common, data

common.defaults(temperature=2.0, alpha=0.1, epochs=60, teacher_epochs=40, seeds=5, batch_size=64, labels=100)
common.defaults(learning_rate=3e-3)


def teacher():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.RandomTranslation(1 / 8, 1 / 8, fill_mode="constant"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(128, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ],
        name="teacher",
    )


def student():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ],
        name="student",
    )


def terms():
    return [Term(KullbackLeibler(common.TEMPERATURE.value), weight=1 - common.ALPHA.value)]


def recipe():
    common.compare(
        "Handwritten digits: softened logits",
        "A convolutional network teaches a dense network of 16 hidden units what it knows of 8x8 pixel digits.",
        data.digits(),
        teacher,
        [common.Student("student", student, terms, common.TEMPERATURE.value)],
    )


if __name__ == "__main__":
    common.run(recipe)
