"""Checks of models, options and batches against the `tf.distribute` strategy."""

from collections.abc import Collection, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _compat
from keras_distill.distribution import replicas
from keras_distill.types import Structure

# Reductions of gradients that work inside a loop of a graph.
_IN_LOOPS = (
    tf.distribute.HierarchicalCopyAllReduce,
    tf.distribute.NcclAllReduce,
    tf.distribute.ReductionToOneDevice,
)


def check_scope(models: dict[str, Any]) -> None:
    """Check that all models were made under the current `tf.distribute` strategy.

    Args:
        models: `{description: model or teacher}`.

    Raises:
        ValueError: For a model of another strategy, and for a strategy that Keras does not support.
    """
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "Keras 3 does not support ParameterServerStrategy. Use MirroredStrategy on one machine, "
            "MultiWorkerMirroredStrategy on several, or TPUStrategy."
        )
    for description, model in models.items():
        for made in {id(found): found for found in map(_strategy_of, model.weights)}.values():
            if made is not strategy and not (made is None and replicas.num_replicas() == 1):
                raise ValueError(
                    f"The {description} was made under {_kind(made)}, the distiller under {_kind(strategy)}. "
                    "Make or load both within `with strategy.scope():` of the same strategy."
                )


def check_step(optimizer: Any, jit_compile: Any = "auto", steps_per_execution: int = 1, **options: Any) -> None:
    """Check the options of `compile` that several replicas restrict. Call it within the strategy's scope.

    Args:
        optimizer: Optimizer given to `compile`.
        jit_compile: Option given to `compile`.
        steps_per_execution: Option given to `compile`.
        **options: Other options, which are not checked.

    Raises:
        ValueError: For an option that the strategy does not support.
    """
    strategy = tf.distribute.get_strategy()
    if replicas.num_replicas() == 1:
        return
    if jit_compile is True:
        raise ValueError(
            f"`jit_compile=True` cannot compile the communication between replicas of {_kind(strategy)}. Use 'auto'; "
            "a TPU compiles its steps in any case."
        )
    if (
        steps_per_execution != 1
        and not isinstance(strategy, tf.distribute.TPUStrategy)
        and not isinstance(_compat.cross_device_ops(strategy), _IN_LOOPS)
    ):
        raise ValueError(
            f"`steps_per_execution={steps_per_execution}` fails with TensorFlow's collective operations, which "
            f"{_kind(strategy)} uses to sum gradients. Use 1, or on one machine make the strategy with "
            "`cross_device_ops=tf.distribute.HierarchicalCopyAllReduce()`."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return
    inner = replicas.innermost_optimizer(optimizer)
    if _strategy_of(inner.variables[0]) is not strategy:
        raise ValueError(
            f"The optimizer '{inner.name}' was made outside of the strategy's scope. Make it within "
            "`with strategy.scope():`, or pass its name."
        )
    if inner.ema_overwrite_frequency:
        raise ValueError(
            "`ema_overwrite_frequency` does not work on several replicas. Use the callback "
            "keras.callbacks.SwapEMAWeights."
        )
    if inner.gradient_accumulation_steps and (inner is not optimizer or inner.use_ema):
        other = "`use_ema`" if inner is optimizer else "a LossScaleOptimizer"
        raise ValueError(f"`gradient_accumulation_steps` does not work together with {other} on several replicas.")


def check_batch_size(strategy: tf.distribute.Strategy, batch: Structure) -> None:
    """Check that a training batch has at least one example per replica.

    Args:
        strategy: A `tf.distribute.Strategy`.
        batch: First batch, as distributed to the replicas.

    Raises:
        ValueError: For a smaller batch.
    """
    tensors = keras.tree.flatten(batch)
    shares = [int(tf.shape(share)[0]) for share in strategy.experimental_local_results(tensors[0])]
    if sum(shares) < len(shares):
        raise ValueError(
            f"The first batch has {sum(shares)} examples for the {len(shares)} replicas of this machine. Use a global "
            "`batch_size` of at least the number of replicas."
        )


def _strategy_of(variable):
    """Return the strategy of several replicas under which a `keras.Variable` was made, or None."""
    return getattr(variable.value, "distribute_strategy", None)


def _kind(strategy):
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return "no strategy of several replicas"
    return f"{type(strategy).__name__} with {strategy.num_replicas_in_sync} replicas"


def check_trainable(variables: Iterable[keras.Variable], optimized: Collection[int]) -> None:
    """Check that the optimizer was built with all weights that are trained.

    Args:
        variables: Trainable weights.
        optimized: Ids of the weights that were trainable when the distiller was compiled.

    Raises:
        ValueError: For weights that became trainable later.
    """
    new = [variable.path for variable in variables if id(variable) not in optimized]
    if new:
        raise ValueError(
            f"{len(new)} weights became trainable after `compile`, such as '{new[0]}'. Call `compile` again, after "
            "layers were unfrozen or `enable_lora` was called."
        )


def check_accumulation(terms: Iterable[Any], optimizer: keras.optimizers.Optimizer) -> None:
    """Check that no term is a mean over the tokens of accumulated batches, whose total number is known too late.

    Args:
        terms: The `Term`s.
        optimizer: The optimizer.

    Raises:
        ValueError: For a term over tokens and an optimizer with `gradient_accumulation_steps`.
    """
    names = [term.name for term in terms if term.over == "tokens"]
    steps = replicas.innermost_optimizer(optimizer).gradient_accumulation_steps
    if names and steps:
        raise ValueError(
            f"The terms {names} are means over the tokens of a batch, but the optimizer accumulates gradients over "
            f"{steps} batches of different numbers of tokens. Use over='examples', or "
            "larger batches without accumulation."
        )
