"""MNIST: reproduce the experiment of Hinton et al., 784-1200-1200-10 distilled into 784-800-800-10 and 784-30-30-10.

The teacher has dropout, a maximum norm of its weights and images shifted by up to 2 pixels; the students have none.

Run:    python -m recipes.mnist_hinton --originals=FOLDER
Result: measured with version 0.1.0, which had another order of the examples;
        errors on the 10,000 test digits; accuracy, mean and sample standard deviation over 3 seeds (teacher: one):

            teacher                91    99.09 %                 in the paper  67
            baseline, 800 units   144    98.56 +- 0.04 %                      146
            distilled, 800 units  108    98.92 +- 0.02 %                       74
            baseline, 30 units    320    96.80 +- 0.20 %
            distilled, 30 units   301    96.99 +- 0.05 %

        800 units recover 68 % of the teacher-student gap, 30 units (T=3) hardly any. The teacher, trained for 40
        epochs, does not reach that of the paper, and neither does its student.
Time:   40 minutes on 2 cores of an AMD EPYC, shared with other work, and 12 for the teacher
Reference:
    Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531
"""

import dataclasses

import keras
from absl import flags

from keras_distill import Term
from keras_distill.experiment import Arm, Classification, Experiment
from keras_distill.losses import KLDivergence

from . import common, data

SMALL_TEMPERATURE = flags.DEFINE_float(
    "small_temperature", 3.0, "Softmax temperature for the student of 30 units per layer."
)

common.defaults(temperature=20.0, alpha=0.1, epochs=30, teacher_epochs=40, seeds=3)


def teacher() -> keras.Model:
    bounded = {"activation": "relu", "kernel_constraint": keras.constraints.MaxNorm(3)}
    shift = keras.layers.RandomTranslation(2 / 28, 2 / 28, fill_mode="constant", interpolation="nearest")
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            shift,
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1200, **bounded),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1200, **bounded),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ],
        name="teacher",
    )


def student(units: int) -> keras.Model:
    hidden = [keras.layers.Dense(units, activation="relu") for _ in range(2)]
    return keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)], name=f"student_{units}"
    )


def terms(temperature: float) -> list[Term]:
    return [Term(KLDivergence(temperature), weight=1 - common.ALPHA.value)]


def arms(units: int, temperature: float) -> list[Arm]:
    """Return the baseline and the distilled student with this number of units in each hidden layer."""
    baseline = Arm(f"baseline, {units} units", lambda: student(units), **common.training())
    distilled = dataclasses.replace(
        baseline,
        name=f"distilled, {units} units",
        terms=terms(temperature),
        supervised_weight=common.ALPHA.value,
        baselines=[baseline.name],
    )
    return [baseline, distilled]


def experiment() -> Experiment:
    return Experiment(
        Classification(),
        common.as_data(data.mnist()),
        Arm("teacher", teacher, **common.teacher_training()),
        [*arms(800, common.TEMPERATURE.value), *arms(30, SMALL_TEMPERATURE.value)],
        title="MNIST: soft targets, after Hinton et al.",
        description="A network of 2 x 1200 units is distilled into one of 2 x 800 and one of 2 x 30 units.",
        keep="distilled, 800 units",
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
