"""Handwritten digits: does a network of medium size help the teacher to teach a small one?

A convolutional network teaches a dense network of 128 hidden units, the assistant, and that one teaches the student of
32; beside it, another student learns from the convolutional network itself. Teacher, student, data and settings are
those of `recipes/digits.py`.

Run:    python -m recipes.digits_chain
"""

import keras

from recipes import common, data
from recipes.chain import chain
from recipes.digits import student, teacher, terms


def assistant():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ],
        name="assistant",
    )


def recipe():
    alone, direct = common.alone_and_distilled("student", student, terms)
    assistant_alone, assistant_distilled = common.alone_and_distilled("assistant", assistant, terms)
    common.compare(
        "Handwritten digits: a teacher, its assistant and a student",
        "A convolutional network, taught by 1,297 labelled digits, teaches a dense network of 128 hidden units, which "
        f"teaches one of 32. Both see {common.LABELS.value or 'all'} labels. Another student of 32 has the "
        "convolutional network itself as its teacher.",
        data.digits(),
        teacher,
        [
            alone,
            direct,
            assistant_alone,
            *chain([assistant_distilled, direct._replace(name="student by assistant")]),
        ],
        keep="student by assistant",
    )


if __name__ == "__main__":
    common.run(recipe)
