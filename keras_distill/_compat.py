"""Private names of Keras, TensorFlow and KerasTuner that the package uses.

Each function says which public replacement is missing. `tests/test_compat.py` has one test for each, so that an upgrade
of a dependency fails there first. No other module may use a private name of another package.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

# Name under which Keras keeps the seed generator of random operations that got no seed.
_SEED_GENERATOR = "global_seed_generator"


def flatten_layers(layer: keras.layers.Layer, include_self: bool = True, recursive: bool = True) -> list:
    """Return the sub-layers of a layer in the order of their creation.

    Stands for `Layer._flatten_layers`. The public `Model.layers` exists for models only and does not recurse.

    Args:
        layer: A layer or model.
        include_self: Whether the list starts with `layer` itself. Defaults to True.
        recursive: Whether sub-layers of sub-layers are included. Defaults to True.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def producing_call(tensor: keras.KerasTensor) -> tuple[Any, list[keras.KerasTensor]]:
    """Return the layer or operation that produced a symbolic tensor, and the input tensors of that call.

    Reads `KerasTensor._keras_history`. The public `Layer.input` raises for a layer that is called several times.

    Args:
        tensor: Output of a functional model.
    """
    history = tensor._keras_history
    return history.operation, list(history.operation._inbound_nodes[history.node_index].input_tensors)


class GraphCall(NamedTuple):
    """One call of a layer or operation in the graph of a functional model.

    Attributes:
        operation: The layer or operation.
        args: Its positional arguments, with symbolic tensors.
        kwargs: Its keyword arguments.
        outputs: List of the symbolic tensors that it returned.
    """

    operation: Any
    args: tuple
    kwargs: dict
    outputs: list[keras.KerasTensor]


def graph_calls(model: keras.Model) -> list[GraphCall]:
    """Return the calls of a functional model or a built Sequential in the order of execution, without its inputs.

    Reads `Functional._nodes_by_depth`. The public `Model.operations` holds the operations without their arguments.
    """
    by_depth = _functional(model)._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    return [GraphCall(node.operation, node.arguments.args, node.arguments.kwargs, node.outputs) for node in nodes]


def graph_outputs(model: keras.Model) -> Any:
    """Return the symbolic outputs of a functional model in their structure.

    Reads `Functional._outputs_struct`. The public `Model.outputs` is a flat list, and the public `Layer.output` is that
    of the first call for a Sequential.
    """
    return _functional(model)._outputs_struct


def input_layer(tensor: keras.KerasTensor) -> keras.layers.InputLayer:
    """Return the input layer of a symbolic input; see `producing_call`, which needs a call with arguments."""
    return tensor._keras_history.operation


def has_graph(model: Any) -> bool:
    """Return whether a layer is a functional model, or a Sequential that is built."""
    from keras.src.models.functional import Functional

    return isinstance(model, Functional) or isinstance(model, keras.Sequential) and model._functional is not None


def is_plain_graph(model: Any) -> bool:
    """Return whether a model is made by `keras.Model(inputs, outputs)` or `keras.Sequential`, not by a subclass.

    Compares with the class `Functional`, which has no public name.
    """
    from keras.src.models.functional import Functional

    return type(model) in (Functional, keras.Sequential)


def _functional(model):
    return model._functional if isinstance(model, keras.Sequential) else model


class StrategyBuild:
    """Mixin that replaces how Keras builds a model before the first step. Put it before `keras.Model`.

    Overrides `Model._maybe_symbolic_build`, which `fit`, `evaluate`, `train_on_batch` and `test_on_batch` call. Under a
    strategy, Keras' own averages the batch over the replicas, which fails if their parts differ in size. No public
    method can be overridden instead.
    """

    def build_before_first_step(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build whatever the first step needs.

        Args:
            iterator: Keras' epoch iterator. None in `train_on_batch` and `test_on_batch`.
            data_batch: One batch. None if `iterator` is given.
        """
        raise NotImplementedError

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self.build_before_first_step(iterator, data_batch)


def symbolic_build(model: keras.Model, data_batch: Any) -> None:
    """Build the layers, metrics and optimizer of a compiled model from one batch, without computing anything.

    Stands for `Model._symbolic_build`. The public `Model.build` builds neither metrics nor the optimizer.

    Args:
        model: A compiled model.
        data_batch: `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
    """
    model._symbolic_build(data_batch=data_batch)


def batch_spec(iterator: Any) -> Any:
    """Return the `tf.TensorSpec`s of the batches of Keras' epoch iterator, without taking one.

    Stands for `TFEpochIterator._distributed_dataset`. No public attribute holds the dataset.
    """
    return iterator._distributed_dataset.element_spec


def distribute_strategy(model: keras.Model) -> tf.distribute.Strategy | None:
    """Return the strategy under which a model was created, or None.

    Stands for `Model._distribute_strategy`. The public `Model.distribute_strategy` returns the current strategy for a
    model that was created under none.
    """
    return model._distribute_strategy


def cross_device_ops(strategy: tf.distribute.Strategy) -> tf.distribute.CrossDeviceOps:
    """Return the cross-device operations by which a mirrored strategy reduces gradients.

    Stands for `strategy.extended._cross_device_ops`. The public constructors take them, but nothing returns them.
    """
    return strategy.extended._cross_device_ops


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Set the epoch at which a `fit` that has already begun starts. None keeps the `initial_epoch` of `fit`.

    Stands for `Model._initial_epoch`, by which `keras.callbacks.BackupAndRestore` resumes. A callback has no public way
    to skip epochs.
    """
    model._initial_epoch = epoch


def step_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts the calls of `optimizer.apply`.

    Stands for `Optimizer._iterations`. The public `iterations` counts updates: with gradient accumulation it is a
    quotient and no variable.
    """
    return optimizer._iterations


def accumulated_gradients(optimizer: keras.optimizers.Optimizer) -> Sequence[keras.Variable]:
    """Return the sums of gradients of an optimizer with `gradient_accumulation_steps`, one for each variable.

    Stands for `Optimizer._accumulated_gradients`. `Optimizer.variables` includes them, but unmarked.
    """
    return optimizer._accumulated_gradients


def update_step(optimizer: keras.optimizers.Optimizer, gradients: list, variables: list) -> None:
    """Clip gradients, decay weights and update the variables, as `Optimizer.apply` does once gradients are accumulated.

    Stands for `Optimizer._clip_gradients`, `_apply_weight_decay` and `_backend_update_step`. The public `apply` also
    accumulates and counts.

    Args:
        optimizer: A built optimizer.
        gradients: List of gradients, none of them None.
        variables: The variable of each gradient.
    """
    gradients = optimizer._clip_gradients(gradients)
    optimizer._apply_weight_decay(variables)
    optimizer._backend_update_step(gradients, variables, optimizer.learning_rate)


def keras_mask(tensor: Any) -> Any:
    """Return the Keras mask of a tensor, or None.

    Stands for the attribute `_keras_mask`, the only place where Keras keeps the mask of an eager or graph tensor.
    """
    return getattr(tensor, "_keras_mask", None)


def set_keras_mask(tensor: Any, mask: Any) -> None:
    """Attach a Keras mask to a tensor, in place, as `keras.layers.Masking` does."""
    tensor._keras_mask = mask


def keras_logits(tensor: Any) -> Any:
    """Return the logits from which a softmax or sigmoid computed a tensor, or None.

    Stands for the attribute `_keras_logits`, from which Keras' own crossentropies read them.
    """
    return getattr(tensor, "_keras_logits", None)


def set_keras_logits(tensor: Any, logits: Any) -> None:
    """Attach the logits from which a softmax or sigmoid computed a tensor; see `keras_logits`."""
    tensor._keras_logits = logits


def resolved_loss(identifier: Any, y_true: Any = None, y_pred: Any = None) -> keras.losses.Loss:
    """Return the loss object that `compile` makes of a loss in any form.

    Stands for `compile_utils.get_loss`. The public `keras.losses.get` returns functions for names, and does not know
    "crossentropy", which depends on the shapes of labels and outputs.

    Args:
        identifier: A loss, a function or a name.
        y_true: Labels; needed for "crossentropy" and "ce".
        y_pred: Outputs; needed for "crossentropy" and "ce".
    """
    # Imported here: a module of `keras.src` may move, and few callers need it.
    from keras.src.trainers import compile_utils

    return compile_utils.get_loss(identifier, y_true, y_pred)


def resolved_metric(identifier: Any, y_true: Any = None, y_pred: Any = None) -> keras.metrics.Metric:
    """Return the metric object that `compile` makes of a metric in any form.

    Stands for `compile_utils.get_metric`. The public `keras.metrics.get` returns functions unwrapped, and does not know
    which metric "accuracy" is.

    Args:
        identifier: A metric, a function or a name.
        y_true: Labels; needed for "accuracy" and "acc".
        y_pred: Outputs; needed for "accuracy" and "acc".
    """
    from keras.src.trainers import compile_utils

    return compile_utils.get_metric(identifier, y_true, y_pred)


def function_of_metric(metric: keras.metrics.Metric) -> Callable | None:
    """Return the function of labels and outputs whose mean a metric is, or None.

    Stands for `MeanMetricWrapper._fn` and `_fn_kwargs`.
    """
    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        return None
    return functools.partial(metric._fn, **metric._fn_kwargs)


def metric_modes(metrics: Iterable[keras.metrics.Metric]) -> dict[str, str | None]:
    """Return which values of each metric are better, `{name: "min" or "max"}`; None where the metric does not say so.

    Reads `Metric._direction`, by which Keras' callbacks choose, and the metrics in a `CompileMetrics`.

    Args:
        metrics: Metrics of a model.
    """
    from keras.src.trainers.compile_utils import CompileMetrics

    modes = {}
    for metric in metrics:
        if isinstance(metric, CompileMetrics):
            modes |= metric_modes(metric.metrics)
        else:
            modes[metric.name] = {"up": "max", "down": "min"}.get(getattr(metric, "_direction", None))
    return modes


def layer_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """Return the metrics that a model and its layers own, without those of `compile`.

    Stands for `Model._metrics`. The public `Model.metrics` mixes both.
    """
    metrics = list(model._metrics)
    for layer in model._flatten_layers(include_self=False):
        if not isinstance(layer, keras.Model):
            metrics += layer.metrics
    return metrics


def global_seed_generator() -> keras.random.SeedGenerator | None:
    """Return the seed generator of Keras' random operations that got no seed, or None before its first use.

    Stands for a global attribute of `keras.src`. The public `keras.utils.set_random_seed` sets a seed, but no state.
    """
    # Imported here: a module of `keras.src` may move, and few callers need it.
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute(_SEED_GENERATOR)


def reset_global_seed_generator() -> None:
    """Remove the global seed generator of Keras, which then creates another one at the next use."""
    from keras.src.backend.common import global_state

    global_state.set_global_attribute(_SEED_GENERATOR, None)


def eager_random_generator() -> Any:
    """Return the `random.Random` from which TensorFlow draws operation seeds, or None if no global seed was set.

    Stands for the attribute `_rng` of TensorFlow's eager context. The public `tf.random.set_seed` sets a seed, but no
    state.
    """
    from tensorflow.python.eager import context

    return getattr(context.context(), "_rng", None)


def clear_kernel_cache() -> None:
    """Drop TensorFlow's cached kernels, so that random operations that ran before restart from their seeds."""
    from tensorflow.python.eager import context

    context.context().clear_kernel_cache()


def graph_functions(graph: tf.Graph) -> list:
    """Return the functions that are defined in a graph, such as bodies of loops and branches.

    Stands for `Graph._functions`. The public `Graph.as_graph_def` holds them without static shapes.
    """
    return list(graph._functions.values())


def tuner_callback_class() -> type[keras.callbacks.Callback]:
    """Return the class of the callback by which KerasTuner passes its tuner to `fit`, as the attribute `tuner`.

    Stands for `keras_tuner.src.engine.tuner_utils.TunerCallback`, which has no public name.
    """
    # KerasTuner is an optional dependency.
    from keras_tuner.src.engine.tuner_utils import TunerCallback

    return TunerCallback


def grid_order(oracle: Any) -> Any:
    """Return the linked list of trial ids in the order of the grid, to which `insert(trial_id)` appends.

    Stands for `GridSearchOracle._ordered_ids`. KerasTuner neither saves nor restores it.
    """
    return oracle._ordered_ids


def grid_queue(oracle: Any) -> list[str]:
    """Return the list of trial ids whose successors in the grid are tried next.

    Stands for `GridSearchOracle._populate_next`. KerasTuner neither saves nor restores it.
    """
    return oracle._populate_next


def grid_comparison(oracle: Any) -> Callable[[dict, dict], int]:
    """Return the function that compares two sets of hyperparameter values by the order of the grid: -1, 0 or 1.

    Stands for `GridSearchOracle._compare`. Nothing public exposes the order of a grid.
    """
    return oracle._compare


def loss_arguments(loss: keras.losses.Loss) -> dict[str, Any]:
    """Return the arguments that a Keras loss passes to its function, such as the `delta` of Huber.

    Stands for `LossFunctionWrapper._fn_kwargs`. The public `get_config` leaves some of them out.
    """
    return getattr(loss, "_fn_kwargs", {})
