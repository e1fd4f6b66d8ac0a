"""Variables that a distiller builds before its first step."""

import contextlib
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _compat
from keras_distill.data.batch import unpack
from keras_distill.models.specs import Spec
from keras_distill.training.compiled_losses import CompiledLosses
from keras_distill.training.strategy_checks import check_batch_size
from keras_distill.types import Structure

# Methods of a step that read or pass on labels. A subclass that overrides one may compare other labels or outputs.
_METHODS = (
    "train_step",
    "test_step",
    "training_batch",
    "student_activations",
    "student_outputs",
    "losses_of",
    "compute_loss",
    "compute_metrics",
)


def build_metrics(distiller: Any, losses: dict[str, Any], data: Structure) -> bool:
    """Make the variables of the losses and metrics given to `compile`, without running the models.

    TensorFlow traces a step a second time if the first trace made a variable, as that of `metrics=["accuracy"]` does.
    For large models a trace takes seconds. Left to the first step are models without a graph, whose outputs may differ
    in training, subclasses that override what a step does with the labels, and losses and metrics that read more than
    the shapes known before a step, such as a Keras mask.

    Args:
        distiller: A compiled distiller.
        losses: `{tap of an output: CompiledLosses}`. A `TaskLoss` is left to the first step.
        data: `tf.TensorSpec`s of a batch, in the structure that `train_step` gets.

    Returns:
        False for a batch without labels: the metrics are built from a later one. True otherwise.
    """
    if distiller.run_eagerly or tf.config.functions_run_eagerly() or _overrides_steps(distiller):
        return True
    losses = {tap: compiled for tap, compiled in losses.items() if isinstance(compiled, CompiledLosses)}
    if keras.utils.unpack_x_y_sample_weight(data)[1] is None:
        return False
    # With rollouts, the labels are those of texts that a step writes.
    if distiller.rollouts is not None or not all(_compat.has_graph(distiller.outputs[tap]) for tap in losses):
        return True
    outputs, unlabeled = {tap: _tensor_specs(distiller.specs.student[tap]) for tap in losses}, []

    def update(data, outputs):
        batch = distiller.prepare_batch(unpack(data, distiller.optimizer.iterations))
        if batch.labels is None:
            # The spec of None is not None.
            unlabeled.append(True)
            return
        for tap, compiled in losses.items():
            arguments = batch.inputs, batch.labels, outputs[tap], batch.sample_weight
            compiled.loss(*arguments)
            compiled.update_metrics(*arguments)

    # A step raises again what is an error with its shapes, too.
    with contextlib.suppress(Exception):
        tf.function(update, autograph=False).get_concrete_function(data, outputs)
    return not unlabeled


def _overrides_steps(distiller):
    """Return whether a subclass, or an attribute, replaces a method of the library's own distiller."""
    own = next(kind for kind in type(distiller).__mro__ if kind.__module__.startswith("keras_distill."))
    return any(getattr(type(distiller), name) is not getattr(own, name) or name in vars(distiller) for name in _METHODS)


def build_on_replicas(
    distiller: Any, strategy: tf.distribute.Strategy, iterator: Any, data_batch: Structure, starts_training: bool
) -> None:
    """Build everything from the first replica's part of a batch.

    Args:
        distiller: A compiled distiller.
        strategy: The strategy under which it was made.
        iterator: Keras' epoch iterator, of which the first batch is taken. None if `data_batch` is given.
        data_batch: A batch. None if `iterator` is given.
        starts_training: Whether the size of the first batch is checked.

    Raises:
        ValueError: For a batch that the strategy cannot split.
    """
    if iterator is not None:
        _, _, shares = next(iter(iterator))
        data_batch = next(shares)
        if starts_training:
            check_batch_size(strategy, data_batch)
    with strategy.scope():
        first = keras.tree.map_structure(lambda share: strategy.experimental_local_results(share)[0], data_batch)
        _compat.symbolic_build(distiller, first)


def _tensor_specs(spec):
    if isinstance(spec, Spec):
        return tf.TensorSpec(spec.shape, spec.dtype)
    if isinstance(spec, dict):
        return {name: _tensor_specs(part) for name, part in spec.items()}
    return type(spec)(map(_tensor_specs, spec))
