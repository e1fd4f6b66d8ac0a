"""Run a hyperparameter search, and kill it on request: `python -m tests.support.tuning_run FOLDER [STEP]`.

It runs as a single process, or as the chief or a worker that KerasTuner's environment variables name. Each training
adds a line at its start to `FOLDER/log`: the process and the temperature. A process sends itself SIGKILL when it begins
its STEPth step. With `failing` in place of a number, every trial fails.
"""

import json
import os
import signal
import sys

import keras
import keras_tuner

from keras_distill import Term
from keras_distill.losses import KLDivergence
from keras_distill.tuning import DistillationHyperModel, spaces
from tests.support.helpers import crossentropy, data, mlp

TRIALS, EPOCHS = 6, 2


class KillAtStep(keras.callbacks.Callback):
    # A class attribute, since KerasTuner copies callbacks.
    steps = 0

    def __init__(self, folder, step):
        super().__init__()
        self.log, self.step = f"{folder}/log", step

    def on_train_begin(self, logs=None):
        (term,) = self.model.terms
        with open(self.log, "a") as file:
            file.write(json.dumps([os.environ.get("KERASTUNER_TUNER_ID", "single"), term.loss.temperature]) + "\n")

    def on_train_batch_begin(self, batch, logs=None):
        KillAtStep.steps += 1
        if KillAtStep.steps == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def tuner(folder, failing=False):
    def student(hp):
        # KerasTuner builds the first model, without values, to find the search space.
        if failing and hp.values:
            raise ValueError("no student")
        return mlp()

    hypermodel = DistillationHyperModel(
        student=student,
        teacher=mlp(16, name="teacher"),
        terms=lambda hp: [Term(KLDivergence(spaces.temperature(hp)))],
        loss=crossentropy(),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    # More than the number of trials: KerasTuner's chief would hang after three failed ones.
    limits = {"max_consecutive_failed_trials": TRIALS + 1}
    return keras_tuner.RandomSearch(
        hypermodel, "val_loss", TRIALS, seed=0, directory=folder, project_name="search", **limits
    )


def main(folder, plan="0"):
    keras.utils.set_random_seed(0)
    x, y = data(64)
    search = tuner(folder, failing=plan == "failing")
    kill = KillAtStep(folder, int(plan) if plan.isdigit() else 0)
    search.search(x, y, validation_data=(x, y), epochs=EPOCHS, batch_size=8, verbose=0, callbacks=[kill])


if __name__ == "__main__":
    main(*sys.argv[1:])
