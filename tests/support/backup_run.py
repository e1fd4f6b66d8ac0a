"""Training with checkpoints and planned faults: `python -m tests.support.backup_run FOLDER OUT [PLAN]`.

The process is a single worker, or one of the workers in TF_CONFIG. It writes its state to `OUT/<worker>.npz` and its
history to `OUT/<worker>.json`. PLAN is a JSON list of faults of this worker. The fault
`{"signal": "SIGKILL", "at": "step", "count": 5, "after": 0.01}` sends the signal to the process 0.01 seconds after its
fifth step begins. `at` is "step", "epoch" (its end), "validation" (one of its batches), "hash" (a write of arrays to a
checkpoint) or "fsync" (before a file gets its final name).
"""

import collections
import json
import os
import signal
import sys
import threading

import keras
import numpy as np
import tensorflow as tf

from keras_distill import Backup, Balance, Distiller, Term
from keras_distill.losses import Hint, KLDivergence
from keras_distill.saving import checkpoints
from keras_distill.teachers import EMATeacher
from tests.support.helpers import crossentropy, data

EPOCHS, EXAMPLES, BATCH, EVERY = 4, 68, 7, 3


class Faults(keras.callbacks.Callback):
    """Trigger the planned faults, and print every training step."""

    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.counts = collections.Counter()
        hashing_write, sync = checkpoints.HashingWriter.write, os.fsync

        def write(*arguments):
            self.reach("hash")
            return hashing_write(*arguments)

        def fsync(*arguments):
            self.reach("fsync")
            return sync(*arguments)

        checkpoints.HashingWriter.write, os.fsync = write, fsync

    def reach(self, event):
        self.counts[event] += 1
        for fault in self.plan:
            if (fault["at"], fault["count"]) == (event, self.counts[event]):
                arguments = os.getpid(), getattr(signal, fault["signal"])
                if fault.get("after"):
                    threading.Timer(fault["after"], os.kill, arguments).start()
                else:
                    os.kill(*arguments)

    def on_train_batch_begin(self, batch, logs=None):
        # `Backup` skips the steps of an earlier process.
        if self.model.train_function.__name__ != "skip_step":
            self.reach("step")
            print("step", self.epoch, batch, flush=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_test_batch_end(self, batch, logs=None):
        self.reach("validation")

    def on_epoch_end(self, epoch, logs=None):
        self.reach("epoch")


def distiller():
    """Return a distiller with all kinds of state: dropout, EMA teacher, schedule, balance, head and Adam."""
    student = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, activation="relu", name="features"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3, name="logits"),
        ],
        name="student",
    )
    terms = [
        Term(KLDivergence(), weight=Balance(0.3, 0.9)),
        Term(Hint(), "features", "features", head="auto", weight=0.1),
    ]
    model = Distiller(student=student, teacher=EMATeacher(student, 0.9), terms=terms)
    rate = keras.optimizers.schedules.CosineDecay(0.05, 50)
    model.compile(keras.optimizers.Adam(rate), crossentropy(), metrics=["accuracy"])
    return model


def fitted(folder, callbacks=(), **options):
    """Return the trained distiller and the history."""
    keras.utils.set_random_seed(0)
    model = distiller()
    backup = Backup(folder, **{"every": EVERY, "keep": True} | options)
    x, y = data(EXAMPLES)
    dataset = backup.batches((x, y), BATCH)
    test = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    history = model.fit(dataset, epochs=EPOCHS, validation_data=test, verbose=0, callbacks=[backup, *callbacks])
    return model, history.history


def state(model):
    """Return the values of all variables that training changes."""
    return [np.array(variable) for variable in (*model.variables, *model.teacher.state, *model.optimizer.variables)]


def main(folder, out, plan="[]"):
    is_cluster = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if is_cluster else tf.distribute.get_strategy()
    worker = strategy.cluster_resolver.task_id if is_cluster else 0
    with strategy.scope():
        model, history = fitted(folder, [Faults(json.loads(plan))])
    np.savez(f"{out}/{worker}.npz", *state(model))
    with open(f"{out}/{worker}.json", "w") as file:
        json.dump(history, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
