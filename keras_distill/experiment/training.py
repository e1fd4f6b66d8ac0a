"""Resumable training of one model."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_distill.callbacks.backup import Backup
from keras_distill.callbacks.termination import TerminateOnNonFinite
from keras_distill.experiment.arm import Arm
from keras_distill.experiment.task import Task


def fit(
    distiller: keras.Model,
    batches: tf.data.Dataset,
    epochs: int,
    backup: Backup,
    validation: tf.data.Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train a compiled distiller, from its latest checkpoint on.

    Training stops with an error at the first loss that is not finite.

    Args:
        distiller: A compiled `Distiller`, or another `keras.Model`.
        batches: Dataset of one epoch, made by `backup.epochs` or `backup.batches`.
        epochs: Number of epochs.
        backup: The `Backup`.
        validation: Batches of the validation split. Defaults to None.
        callbacks: Further callbacks. Defaults to none.
        verbose: As for `fit`. Defaults to 0.

    Returns:
        The history of all epochs, those of earlier processes included.

    Raises:
        NonFiniteError: If a loss is NaN or infinite.
        CheckpointMismatchError: If the checkpoint belongs to another run.
    """
    return distiller.fit(
        batches,
        epochs=epochs,
        validation_data=validation,
        callbacks=[TerminateOnNonFinite(backup.every), *callbacks, backup],
        # The dataset is shuffled, with the seed that `Backup` passes.
        shuffle=False,
        verbose=verbose,
    ).history


def early_stopping(arm: Arm, task: Task) -> list[keras.callbacks.Callback]:
    """Return the callback of `Arm.patience`, in a list; none without patience."""
    if arm.patience is None:
        return []
    return [
        keras.callbacks.EarlyStopping(task.monitor, mode=task.mode, patience=arm.patience, restore_best_weights=True)
    ]
