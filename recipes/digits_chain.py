"""Handwritten digits: test whether a teacher assistant of medium size helps a small student.

A convolutional network is distilled into a dense network of 128 hidden units, the assistant, and the assistant into the
student of 32. For comparison, another student is distilled from the convolutional network itself. Teacher, student,
data and settings are those of `recipes/digits.py`.

Run:    python -m recipes.digits_chain
Result: measured with version 0.1.0, which had another order of the examples;
        accuracy on 500 test digits, mean and sample standard deviation over 5 seeds: teacher 99.60 % (one seed),
        baseline 90.36 +- 1.28 %, distilled 97.56 +- 0.17 %, distilled by assistant 97.40 +- 0.32 %; assistant
        98.12 +- 0.11 %, its baseline 90.76 +- 0.43 %. The assistant does not help: its student is no better than the
        one that is distilled from the teacher. Nothing was tuned for it.
Time:   7 minutes on 2 cores of an Intel Xeon, shared with other work
"""

import keras

from keras_distill.experiment import Arm, Classification, Experiment

from . import common, data
from .digits import student, teacher, terms


def assistant() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ],
        name="assistant",
    )


def experiment() -> Experiment:
    training, alpha = common.training(), common.ALPHA.value
    return Experiment(
        Classification(),
        common.as_data(data.digits()),
        Arm("teacher", teacher, **common.teacher_training()),
        [
            Arm("baseline", student, **training),
            Arm("baseline, assistant", assistant, **training),
            Arm("distilled", student, terms(), alpha, baselines=["baseline"], **training),
            Arm("assistant", assistant, terms(), alpha, baselines=["baseline, assistant"], **training),
            Arm(
                "distilled by assistant",
                student,
                terms(),
                alpha,
                baselines=["baseline", "distilled"],
                teacher="assistant",
                **training,
            ),
        ],
        title="Handwritten digits: a teacher, its assistant and a student",
        description="A convolutional network, trained on 1,297 labelled digits, is distilled into a dense network of "
        f"128 hidden units, the assistant, and that one into a student of 32. Both see {common.LABELS.value or 'all'} "
        "labels. Another student of 32 is distilled from the convolutional network itself.",
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
