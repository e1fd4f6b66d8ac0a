"""Handwritten digits: does a network of medium size help the teacher to teach a small one?

A convolutional network teaches a dense network of 128 hidden units, the assistant, and that one teaches the student of
32; beside it, another student learns from the convolutional network itself. Teacher, student, data and settings are
those of `recipes/digits.py`.

Run:    python -m recipes.digits_chain
Expect: accuracy on 500 test digits, mean and sample standard deviation over 5 seeds: teacher 99.60 % (one seed),
        student alone 90.36 +- 1.28 %, taught by the teacher 97.56 +- 0.17 %, by the assistant 97.40 +- 0.32 %;
        assistant alone 90.76 +- 0.43 %, distilled 98.12 +- 0.11 %. The assistant does not help: its student is no
        better than the one that the teacher teaches itself. Nothing was tuned for it.
Time:   7 minutes on 2 cores of an Intel Xeon, shared with other work
"""

import keras

from recipes import common, comparison, data
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
    alone, direct = comparison.alone_and_distilled("student", student, terms)
    assistant_alone, assistant_distilled = comparison.alone_and_distilled("assistant", assistant, terms)
    comparison.compare(
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
