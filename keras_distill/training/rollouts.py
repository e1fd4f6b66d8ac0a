"""Rollouts of a distiller: texts that a model writes during training."""

from collections.abc import Callable
from typing import Any

import keras

from keras_distill import _compat
from keras_distill.data.batch import Batch
from keras_distill.distribution import replicas
from keras_distill.models.specs import Traced
from keras_distill.training.labeled_losses import reads_class_indices


def connect_rollouts(
    rollouts: Any, student: keras.Model, teacher: Any, traced: Traced
) -> Callable[[Batch, keras.optimizers.Optimizer], Batch] | None:
    """Return the function of a batch and the optimizer that returns the batch with rollouts; None without rollouts.

    Args:
        rollouts: `keras_distill.language.Rollouts`, or None.
        student: The student.
        teacher: The `Teacher`.
        traced: Inputs and activations of both.

    Raises:
        ValueError: For another type, and models that cannot write texts.
    """
    if rollouts is None:
        return None
    if not hasattr(rollouts, "connect") or isinstance(rollouts, type):
        raise ValueError(
            f"`rollouts` must be keras_distill.language.Rollouts(...), with its arguments. Received: {rollouts!r}"
        )
    connected = rollouts.connect(student, teacher, traced)

    def roll_out(batch, optimizer):
        # Not `batch.step`, which is the same for all batches of an accumulated gradient.
        return connected(batch, _compat.step_counter(replicas.innermost_optimizer(optimizer)))

    return roll_out


def check_rollout_labels(rollouts: Any, loss: Any) -> None:
    """Check that the supervised loss leaves out the labels of texts that the student writes.

    Args:
        rollouts: `keras_distill.language.Rollouts`, or None.
        loss: Loss given to `compile`.

    Raises:
        ValueError: For a loss that does not read class indices.
    """
    if rollouts is not None and loss is not None and not reads_class_indices(loss):
        raise ValueError(
            f"The loss {loss!r} cannot leave out texts that the student writes: it does not read class indices. Use "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True), or compile without a loss."
        )
