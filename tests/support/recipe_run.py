"""Run the pre-flight check on the distillers of a recipe, with a teacher that was trained for a few epochs.

python tests/support/recipe_run.py RECIPE [flags of the recipe]
"""

import importlib
import sys

import keras
import numpy as np
from absl import flags

from keras_distill import Distiller
from keras_distill.preflight import check
from recipes import common, comparison, data, training

# Enough for these images: the moving statistics of batch normalization need about a hundred steps.
EPOCHS = 8


def enlarged():
    """Return the digits of 8x8 pixels, enlarged to 28x28, in place of datasets that need a download."""
    digits = data.digits()
    return digits._replace(
        **{part: (_enlarged(x), y) for part, (x, y) in (("train", digits.train), ("test", digits.test))}
    )


def _enlarged(images):
    return np.pad(images.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2), (0, 0)))


def check_students(title, description, data, teacher, students, **options):
    """Check the distillers that `comparison.compare`, which this function replaces, would train."""
    steps = EPOCHS * -(-len(data.train[1]) // common.BATCH_SIZE.value)
    keras.utils.set_random_seed(0)
    models = {None: teacher()}
    rate = common.TEACHER_LEARNING_RATE.value or common.LEARNING_RATE.value
    training.compile(models[None], rate, steps)
    models[None].fit(*data.train, epochs=EPOCHS, batch_size=common.BATCH_SIZE.value, verbose=0)
    training_data = comparison.with_few_labels(data)
    for student in students:
        if student.terms is None:
            continue
        student_teacher = models[student.teacher]
        start = student_teacher if student.start is None else models[student.start]
        distiller = Distiller(
            student=student.model(start),
            teacher=student_teacher,
            terms=student.terms(student_teacher),
            supervised_weight=training.alpha(student),
        )
        training.compile(distiller, common.LEARNING_RATE.value, steps)
        findings = check(distiller, *training_data.train, batch_size=common.BATCH_SIZE.value)
        print(f"{student.name}: {len(findings)} findings", *findings, sep="\n")
        if any(student.name in (other.teacher, other.start) for other in students):
            distiller.fit(*training_data.train, epochs=EPOCHS, batch_size=common.BATCH_SIZE.value, verbose=0)
            models[student.name] = distiller.student


if __name__ == "__main__":
    data.mnist = data.fashion_mnist = enlarged
    comparison.compare = check_students
    recipe = importlib.import_module(f"recipes.{sys.argv[1]}")
    flags.FLAGS(sys.argv[1:])
    recipe.recipe()
