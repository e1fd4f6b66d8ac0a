"""Diabetes: distill a random forest into a small neural network that predicts the progression of the disease.

The teacher is a forest of scikit-learn, trained on 300 patients. The students see the labels of 100 of them; the
teacher's predictions cover all 300.

Run:    python -m recipes.diabetes_regression
"""

import keras
from sklearn.ensemble import RandomForestRegressor

from keras_distill import Term
from keras_distill.experiment import Arm, Experiment, Regression
from keras_distill.teachers import NumPyTeacher

from . import common, data

common.defaults(alpha=0.5, epochs=200, seeds=5, batch_size=32, labels=100, learning_rate=3e-3)


def student(measurements, progression) -> keras.Model:
    """Return a network that standardizes its inputs, and outputs in the unit of the labels."""
    normalization = keras.layers.Normalization()
    normalization.adapt(measurements)
    return keras.Sequential(
        [
            keras.Input((10,)),
            normalization,
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(1),
            keras.layers.Rescaling(float(progression.std()), float(progression.mean())),
        ],
        name="student",
    )


def experiment() -> Experiment:
    patients = data.diabetes()
    forest = RandomForestRegressor(300, min_samples_leaf=5, random_state=0).fit(*patients.train)
    teacher = NumPyTeacher(lambda x: forest.predict(x)[:, None].astype("float32"), name="random forest")

    def new_student():
        return student(*patients.train)

    return Experiment(
        Regression(),
        common.as_data(patients),
        teacher,
        [
            Arm("baseline", new_student, **common.training()),
            Arm("distilled", new_student, [Term("mse", weight=0.5)], 0.5, **common.training()),
        ],
        title="Diabetes: a random forest and a small network",
        description="A random forest, trained on 300 patients, is distilled into a network of 32 hidden units. "
        f"The students see {common.LABELS.value or 'all'} labels; the teacher's predictions cover all patients.",
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
