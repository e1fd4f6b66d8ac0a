"""Means over the examples of a replica, and the replica's part of a step."""

from collections.abc import Iterable

import keras
from keras import ops

from keras_distill.data.batch import Batch, batch_size
from keras_distill.distribution import replicas
from keras_distill.types import Tensor


def replica_fraction(batch: Batch) -> float | Tensor:
    """Return this replica's part of all examples of the step, in [0, 1].

    Keras sums the gradients of all replicas. Losses that are means over a replica's examples, multiplied by this
    fraction, therefore give the update of a single device, however unevenly the last batch was split.
    """
    if replicas.num_replicas() == 1:
        return 1.0
    examples = ops.cast(batch_size(batch.inputs), "float32")
    return examples / ops.maximum(replicas.all_reduce_sum(examples), 1.0)


def local_mean(loss: Tensor | None, batch: Batch) -> Tensor:
    """Return a supervised loss as the mean over this replica's examples, float32; 0 if there is none.

    Args:
        loss: Loss as Keras computes it, divided by the number of replicas; or None.
        batch: The `Batch`.
    """
    if loss is None:
        return 0.0
    if replicas.num_replicas() == 1:
        return ops.cast(loss, "float32")
    # The mean over no examples, which a replica may have, is NaN.
    return ops.where(batch_size(batch.inputs) > 0, ops.cast(loss, "float32") * replicas.num_replicas(), 0.0)


def mean_over_examples(values: Tensor) -> Tensor:
    """Return the mean over this replica's examples, 0 if there are none.

    Args:
        values: float32, shape `[batch]`.
    """
    return ops.sum(values) / ops.cast(ops.maximum(ops.shape(values)[0], 1), "float32")


def regularization_losses(layers: Iterable[keras.layers.Layer]) -> Tensor:
    """Return the sum of the layers' regularizers and added losses, float32.

    To be called right after the layers ran, before the replicas communicate: Keras keeps the losses that the layers
    add on all replicas in one list.
    """
    return sum((ops.sum(ops.cast(loss, "float32")) for layer in layers for loss in layer.losses), 0.0)


def add_up(values: Iterable[float | Tensor]) -> float | Tensor:
    """Return the sum of numbers and tensors, without an operation for a number that is 0."""
    values = [value for value in values if not (isinstance(value, float) and value == 0)]
    return sum(values[1:], values[0]) if values else 0.0


def multiply(factor: float | Tensor, value: float | Tensor) -> float | Tensor:
    """Return the product of a factor and a value, without an operation for the number 1."""
    return value if isinstance(factor, float) and factor == 1 else factor * value
