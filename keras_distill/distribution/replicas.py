"""Collective operations and optimizer steps over the replicas of `tf.distribute`.

Each replica gets a part of the global batch. A step on several replicas makes the same update as on a single device.
"""

import contextlib
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.types import Structure, Tensor

_CLIPPING = "clipnorm", "global_clipnorm", "clipvalue"


def num_replicas() -> int:
    """Return the number of replicas of the current strategy, 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def all_reduce_sum(value: Structure) -> Structure:
    """Sum tensors over all replicas. Call it inside a step. No gradient passes.

    Args:
        value: A tensor of the same shape on all replicas, or a structure of several, which are reduced in one
            collective operation.

    Returns:
        The sums, in the same structure.
    """
    value = keras.tree.map_structure(lambda tensor: ops.stop_gradient(ops.convert_to_tensor(tensor)), value)
    context = tf.distribute.get_replica_context()
    # There is no replica context while Keras infers shapes before the first step.
    if num_replicas() == 1 or context is None:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def all_gather(structure: Structure) -> Structure:
    """Concatenate the examples of all replicas. Call it inside a step.

    The gradient of each example flows back to its replica.

    Args:
        structure: Structure of tensors of shape `[batch, ...]` and None. The batch size may differ between replicas.

    Returns:
        The same structure of tensors of shape `[global batch, ...]`, in the order of the replicas.
    """
    context = tf.distribute.get_replica_context()
    # There is no replica context while Keras infers shapes before the first step.
    if num_replicas() == 1 or context is None:
        return structure
    devices = context.strategy.extended.worker_devices

    def gather(tensor):
        # A worker with a single device can gather only tensors that are placed on that device explicitly.
        with tf.device(devices[0]) if len(devices) == 1 else contextlib.nullcontext():
            return context.all_gather(tf.identity(tensor), axis=0)

    return keras.tree.map_structure(lambda tensor: None if tensor is None else gather(tensor), structure)


def local_slice(values: Tensor, examples: Tensor) -> Tensor:
    """Return this replica's part of values for the examples of all replicas, the inverse of `all_gather`.

    Args:
        values: Shape `[global batch]`.
        examples: Number of examples of this replica, a scalar.

    Returns:
        Shape `[examples]`.
    """
    if num_replicas() == 1:
        return values
    examples = tf.reshape(examples, (1,))
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    start = tf.reduce_sum(all_gather(examples)[:number])
    return values[start : start + examples[0]]


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Tensor | None], variables: Sequence[keras.Variable]
) -> None:
    """Apply the sum of all replicas' gradients. Call it inside a step.

    Keras clips gradients, checks them for overflow and accumulates them before it sums over the replicas. Here each
    replica gets the sum over all replicas divided by their number, and clipping limits divided by the same number.
    Keras' own sum then restores the gradient and the limits of a single device.

    Args:
        optimizer: Optimizer that was built with these variables, in this order.
        gradients: This replica's gradients. None for a variable without a gradient.
        variables: The variable of each gradient.
    """
    inner = innermost_optimizer(optimizer)
    accumulation_steps = inner.gradient_accumulation_steps
    clips = any(getattr(inner, name) for name in _CLIPPING)
    if num_replicas() == 1 or (inner is optimizer and not accumulation_steps and not clips):
        optimizer.apply(gradients, variables)
        return
    context = tf.distribute.get_replica_context()
    present = [gradient for gradient in gradients if gradient is not None]
    sums = context.all_reduce(tf.distribute.ReduceOp.SUM, present)
    # The gradient of an embedding consists of slices. They are not merged, since Keras clips by the norm of the slices.
    averages = iter([ops.divide(total, num_replicas()) for total in sums])
    gradients = [None if gradient is None else next(averages) for gradient in gradients]

    def apply_on_all(strategy, gradients):
        on_each = strategy.extended.call_for_each_replica
        with _divided_limits(inner):
            if not accumulation_steps:
                on_each(optimizer.apply, args=(gradients, variables))
                return
            counter = _compat.step_counter(inner)
            # The branch is taken for all replicas at once: TensorFlow allows no update of a mirrored variable inside a
            # branch of a single replica.
            due = (counter + 1) % accumulation_steps == 0
            ops.cond(due, lambda: on_each(update, args=(gradients,)), lambda: on_each(accumulate, args=(gradients,)))
            on_each(constrain)
            on_each(counter.assign_add, args=(1,))

    def update(gradients):
        updated, means = [], []
        divisor = accumulation_steps * (inner.loss_scale_factor or 1.0)
        for variable, new, old in zip(variables, gradients, _compat.accumulated_gradients(inner)):
            if new is not None:
                updated.append(variable)
                means.append((tf.convert_to_tensor(new) + old) / divisor)
                old.assign(ops.zeros_like(old))
        _compat.update_step(inner, means, updated)

    def accumulate(gradients):
        for new, old in zip(gradients, _compat.accumulated_gradients(inner)):
            if new is not None:
                old.assign_add(tf.convert_to_tensor(new))

    def constrain():
        # Keras applies constraints after every step, whether it updated the variables or not.
        for variable, gradient in zip(variables, gradients):
            if gradient is not None and variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    context.merge_call(apply_on_all, args=(gradients,))


def assign(strategy: tf.distribute.Strategy, variable: keras.Variable, value: Tensor) -> None:
    """Assign a value to a variable so that reading the variable returns this value.

    Args:
        strategy: The strategy under which the variable was created.
        variable: The variable.
        value: The value, of the variable's shape.
    """
    if strategy.num_replicas_in_sync == 1 or (variable.synchronization, variable.aggregation) != ("on_read", "sum"):
        variable.assign(value)
        return

    # Reading a variable of a metric sums over the replicas. The first replica gets the whole value, since equal parts
    # would be rounded.
    def assign_first():
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        variable.assign(tf.where(first, tf.convert_to_tensor(value), tf.zeros_like(value)))

    tf.function(strategy.run)(assign_first)


def innermost_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer that a `LossScaleOptimizer` wraps, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextlib.contextmanager
def _divided_limits(optimizer):
    """Divide the clipping limits of an optimizer by the number of replicas while a step is traced."""
    limits = {name: getattr(optimizer, name) for name in _CLIPPING}
    try:
        for name, limit in limits.items():
            setattr(optimizer, name, None if limit is None else limit / num_replicas())
        yield
    finally:
        for name, limit in limits.items():
            setattr(optimizer, name, limit)
