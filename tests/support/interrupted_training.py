"""Training with checkpoints and simulated faults, in this process."""

import functools
import tempfile

import keras
import numpy as np
import pytest

from keras_distill import Backup, Distiller, Term
from keras_distill.losses import KLDivergence
from tests.support import backup_run
from tests.support.helpers import compiled, data, mlp


class KilledError(Exception):
    """Simulates a process that is killed: nothing cleans up after it."""


class FaultAt(keras.callbacks.Callback):
    """Raise `KilledError`, or run an action, at a given call of a callback method."""

    def __init__(self, method, count, action=None):
        super().__init__()
        self.count, self.action = count, action
        setattr(self, method, self.count_down)

    def count_down(self, *arguments, **options):
        self.count -= 1
        if self.count == 0:
            if self.action is None:
                raise KilledError
            self.action()


# An epoch of `data(EXAMPLES)` has STEPS steps. The last batch is smaller.
EXAMPLES, BATCH, STEPS, EPOCHS = 30, 8, 4, 3


def network(name="student", normalized=False):
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, activation="relu", name="features"),
            *([keras.layers.BatchNormalization()] if normalized else []),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3, name="logits"),
        ],
        name=name,
    )


def everything():
    return backup_run.distiller()


def accumulating():
    optimizer = keras.optimizers.Adam(0.05, gradient_accumulation_steps=3, use_ema=True)
    model = Distiller(student=network(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
    return compiled(model, optimizer, metrics=["accuracy"])


def plain():
    model = network(normalized=True)
    metrics = ["accuracy", keras.metrics.TopKCategoricalAccuracy(2)]
    model.compile(keras.optimizers.AdamW(0.05), keras.losses.CategoricalCrossentropy(from_logits=True), metrics=metrics)
    return model


def state_of(model):
    teacher = model.untracked_variables().values() if isinstance(model, Distiller) else ()
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables, *teacher)]


def trained(make, folder, *callbacks, epochs=EPOCHS, dataset=None, **options):
    """Return state and history of a run that shares only the folder with earlier runs, like another process."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = make()
    backup = Backup(folder, **{"every": 1, "keep": True} | options)
    x, y = data(EXAMPLES)
    y = keras.utils.to_categorical(y) if make is plain else y
    dataset = backup.batches((x, y), BATCH) if dataset is None else dataset(backup, x, y)
    options = {"epochs": epochs, "validation_data": (x, y), "verbose": 0}
    history = model.fit(dataset, callbacks=[backup, *backup.callbacks, *callbacks], **options).history
    return state_of(model), history


def assert_same(run, other):
    (state, history), (others, other_history) = run, other
    for one, another in zip(state, others, strict=True):
        np.testing.assert_array_equal(one, another)
    assert history == other_history


@functools.cache
def uninterrupted(make, dataset=None, epochs=EPOCHS):
    """Return state and history of a run without faults."""
    with tempfile.TemporaryDirectory() as folder:
        return trained(make, folder, dataset=dataset, epochs=epochs)


def assert_resumes(make, folder, *faults, dataset=None, **options):
    """Compare a run that was killed by each of the faults with an uninterrupted one."""
    for fault in faults:
        with pytest.raises(KilledError):
            trained(make, folder, fault, dataset=dataset, **options)
    assert_same(trained(make, folder, dataset=dataset, **options), uninterrupted(make, dataset))


def interrupt(folder, make=accumulating, **options):
    """Leave the checkpoints of a run that was killed in its second epoch."""
    with pytest.raises(KilledError):
        trained(make, folder, FaultAt("on_train_batch_end", 6), **options)
