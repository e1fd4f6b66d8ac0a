"""Small hyperparameter searches with KerasTuner, and their trials."""

import json

import keras
import keras_tuner

from keras_distill import Term
from keras_distill.losses import KLDivergence
from keras_distill.tuning import DistillationHyperModel, spaces
from tests.support.helpers import crossentropy, data, mlp

Objective = keras_tuner.Objective
BATCH, TRAIN = 8, 16
STEPS = TRAIN // BATCH


def logit_terms(hp):
    return [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))]


def hypermodel(**options):
    defaults = {
        "student": lambda hp: mlp(),
        "teacher": mlp(16, name="teacher"),
        "terms": logit_terms,
        "supervised_weight": spaces.alpha,
        "optimizer": lambda hp: keras.optimizers.Adam(0.05),
        "loss": crossentropy(),
        "metrics": ["accuracy"],
        # Graph tracing takes longer than these few steps.
        "run_eagerly": True,
    }
    return DistillationHyperModel(**defaults | options)


def splits_of(teacher=None):
    """Return training and validation data, joined with the outputs of a cached teacher if there is one."""
    x, y = data(TRAIN + 16)
    x = x if teacher is None else teacher.load(x)
    cuts = slice(TRAIN), slice(TRAIN, None)
    return tuple((keras.tree.map_structure(lambda array, cut=cut: array[cut], x), y[cut]) for cut in cuts)


def search(tuner, splits=None, epochs=1, **options):
    train, validation = splits or splits_of()
    tuner.search(*train, validation_data=validation, epochs=epochs, batch_size=BATCH, verbose=0, **options)
    return tuner


def random_search(model, folder, trials=2, objective="val_accuracy", **options):
    return keras_tuner.RandomSearch(
        model, objective, max_trials=trials, seed=0, directory=folder, project_name="search", **options
    )


def trials(tuner):
    return list(tuner.oracle.trials.values())


def states(tuner):
    return [trial.status for trial in trials(tuner)]


def record(path, *values):
    with open(path, "a") as file:
        file.write(json.dumps(values) + "\n")


def read_records(path):
    with open(path) as file:
        return [tuple(json.loads(line)) for line in file]
