"""A training with a backup that is to be killed: `python -m tests.support.backup_run FOLDER OUT [PLAN]`.

It trains alone, or as one of the workers that TF_CONFIG names, and writes weights and history into `OUT/<worker>.npz`.
PLAN is JSON, a list of what happens to this worker: `{"signal": "SIGKILL", "at": "step", "count": 5, "after": 0.01}`
sends itself the signal when it begins its fifth step, or so many seconds later. `at` is also "epoch" (when one ends),
"validation" (a batch of it), "hash" (some way into the arrays of a backup) or "fsync" (before a file gets its name).
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


class Doom(keras.callbacks.Callback):
    """Carries out a plan, and says on its standard output where the training is."""

    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.counts = collections.Counter()
        hashed, sync = checkpoints._Hashed.write, os.fsync

        def write(*arguments):
            self.meet("hash")
            return hashed(*arguments)

        def fsync(*arguments):
            self.meet("fsync")
            return sync(*arguments)

        checkpoints._Hashed.write, os.fsync = write, fsync

    def meet(self, at):
        self.counts[at] += 1
        for event in self.plan:
            if (event["at"], event["count"]) == (at, self.counts[at]):
                send = os.kill, (os.getpid(), getattr(signal, event["signal"]))
                if event.get("after"):
                    threading.Timer(event["after"], *send).start()
                else:
                    send[0](*send[1])

    def on_train_batch_begin(self, batch, logs=None):
        # Those that the process before this one made are passed over.
        if self.model.train_function.__name__ != "pass_over":
            self.meet("step")
            print("step", self.epoch, batch, flush=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_test_batch_end(self, batch, logs=None):
        self.meet("validation")

    def on_epoch_end(self, epoch, logs=None):
        self.meet("epoch")


def distiller():
    """All that may be lost: dropout, a teacher's copy, a schedule, a balance, a head, Adam's means."""
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
    """The distiller after its training, and the history."""
    keras.utils.set_random_seed(0)
    model = distiller()
    backup = Backup(folder, **{"every": EVERY, "keep": True} | options)
    x, y = data(EXAMPLES)
    lessons = backup.batches((x, y), BATCH)
    test = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    history = model.fit(lessons, epochs=EPOCHS, validation_data=test, verbose=0, callbacks=[backup, *callbacks])
    return model, history.history


def state(model):
    """All that training changed."""
    return [np.array(variable) for variable in (*model.variables, *model.teacher.state, *model.optimizer.variables)]


def main(folder, out, plan="[]"):
    several = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    worker = strategy.cluster_resolver.task_id if several else 0
    with strategy.scope():
        model, history = fitted(folder, [Doom(json.loads(plan))])
    np.savez(f"{out}/{worker}.npz", *state(model))
    with open(f"{out}/{worker}.json", "w") as file:
        json.dump(history, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
