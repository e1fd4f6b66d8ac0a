"""Rollouts of a distiller: texts that a model writes during training."""

from typing import Any

import keras

from keras_distill import _compat
from keras_distill.data.batch import Batch
from keras_distill.distribution import replicas
from keras_distill.models.specs import Traced
from keras_distill.training.labeled_losses import reads_class_indices


class RollOut:
    """Function of a batch and the optimizer that returns the batch with rollouts.

    Args:
        connected: Function of a batch and the step.

    Attributes:
        state: Variables that change during training and are saved with the distiller.
    """

    def __init__(self, connected: Any):
        self._connected = connected
        self.state = tuple(getattr(connected, "state", ()))

    def __call__(self, batch: Batch, optimizer: keras.optimizers.Optimizer) -> Batch:
        """Return the batch of a training step."""
        # Not `batch.step`, which is the same for all batches of an accumulated gradient.
        return self._connected(batch, _compat.step_counter(replicas.innermost_optimizer(optimizer)))


def connect_rollouts(rollouts: Any, student: keras.Model, teacher: Any, traced: Traced) -> RollOut | None:
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
    return RollOut(rollouts.connect(student, teacher, traced))


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
