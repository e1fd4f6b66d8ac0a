"""Devices that share a step under `tf.distribute`: each sees a share of the batch, and all make one update."""

import contextlib

import keras
import tensorflow as tf
from keras import ops

_LIMITS = "clipnorm", "global_clipnorm", "clipvalue"


def num_replicas():
    """How many devices share a step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def all_reduce_sum(value):
    """The sum of a tensor over all replicas, inside a step; no gradient passes.

    Args:
        value: Of the same shape on all replicas; or a list of several, for which the replicas meet once.
    """
    value = keras.tree.map_structure(lambda own: ops.stop_gradient(ops.convert_to_tensor(own)), value)
    context = tf.distribute.get_replica_context()
    # There is none where Keras looks for shapes alone, before the first step.
    if num_replicas() == 1 or context is None:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def all_gather(structure):
    """The examples of all replicas, in their order, inside a step; the gradient goes back to where each came from.

    Args:
        structure: Of tensors of shape `[batch, ...]`, or None.
    """
    if num_replicas() == 1:
        return structure
    context = tf.distribute.get_replica_context()
    devices = context.strategy.extended.worker_devices

    def gather(tensor):
        # A worker with a single device gathers only what is known to be there.
        with tf.device(devices[0]) if len(devices) == 1 else contextlib.nullcontext():
            return context.all_gather(tf.identity(tensor), axis=0)

    return keras.tree.map_structure(lambda tensor: None if tensor is None else gather(tensor), structure)


def local_slice(values, examples):
    """This replica's among the values of all replicas' examples.

    Args:
        values: Shape `[all examples]`.
        examples: How many are this replica's.
    """
    if num_replicas() == 1:
        return values
    examples = tf.reshape(examples, (1,))
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    start = tf.reduce_sum(all_gather(examples)[:number])
    return values[start : start + examples[0]]


def apply_gradients(optimizer, gradients, variables):
    """Applies what all replicas' gradients add up to, inside a step.

    Keras clips, looks for overflow and accumulates before it adds up. Here each replica is given the whole, divided by
    their number, and limits that are as much lower; what Keras then adds up is the update of one device.

    Args:
        optimizer: Built on the variables, in this order.
        gradients: This replica's, or None where a variable has none.
        variables: List.
    """
    inner = innermost_optimizer(optimizer)
    steps = inner.gradient_accumulation_steps
    if num_replicas() == 1 or (
        inner is optimizer and not steps and not any(getattr(inner, limit) for limit in _LIMITS)
    ):
        optimizer.apply(gradients, variables)
        return
    context = tf.distribute.get_replica_context()
    found = [gradient for gradient in gradients if gradient is not None]
    # Of an embedding's gradient there are slices, which all are kept: Keras takes their norm as they are.
    parts = iter([ops.divide(whole, num_replicas()) for whole in context.all_reduce(tf.distribute.ReduceOp.SUM, found)])
    gradients = [None if gradient is None else next(parts) for gradient in gradients]

    def together(strategy, gradients):
        each = strategy.extended.call_for_each_replica
        with _divided_limits(inner):
            if steps:
                # Asked here and not by each replica: TensorFlow allows no updates in branches that a replica takes.
                due = (inner._iterations + 1) % steps == 0
                ops.cond(due, lambda: each(release, args=(gradients,)), lambda: each(keep, args=(gradients,)))
                each(constrain)
                each(inner._iterations.assign_add, args=(1,))
            else:
                each(optimizer.apply, args=(gradients, variables))

    def release(gradients):
        changed, sums = [], []
        for variable, new, old in zip(variables, gradients, inner._accumulated_gradients):
            if new is not None:
                changed.append(variable)
                sums.append((tf.convert_to_tensor(new) + old) / (steps * (inner.loss_scale_factor or 1.0)))
                old.assign(ops.zeros_like(old))
        # What Keras does when it is due, within a branch of its own.
        sums = inner._clip_gradients(sums)
        inner._apply_weight_decay(changed)
        inner._backend_update_step(sums, changed, inner.learning_rate)

    def keep(gradients):
        for new, old in zip(gradients, inner._accumulated_gradients):
            if new is not None:
                old.assign_add(tf.convert_to_tensor(new))

    def constrain():
        # After every step, as Keras does, due or not.
        for variable, gradient in zip(variables, gradients):
            if gradient is not None and variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    context.merge_call(together, args=(gradients,))


def assign(strategy, variable, value):
    """Assigns a value, as it was read, to a Keras variable of this strategy.

    Where reading sums up the replicas' values, as for metrics, the first is given all of it: shares would be rounded.
    """
    if strategy.num_replicas_in_sync == 1 or (variable.synchronization, variable.aggregation) != ("on_read", "sum"):
        variable.assign(value)
        return

    def give():
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        variable.assign(tf.where(first, tf.convert_to_tensor(value), tf.zeros_like(value)))

    tf.function(strategy.run)(give)


def innermost_optimizer(optimizer):
    """The optimizer that a `LossScaleOptimizer` wraps, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextlib.contextmanager
def _divided_limits(optimizer):
    """An optimizer whose limits are those of a replica's part of a gradient, while a step is traced."""
    limits = {name: getattr(optimizer, name) for name in _LIMITS}
    try:
        for name, limit in limits.items():
            setattr(optimizer, name, None if limit is None else limit / num_replicas())
        yield
    finally:
        for name, limit in limits.items():
            setattr(optimizer, name, limit)
