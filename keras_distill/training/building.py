"""What a distiller builds before its first step."""

from typing import Any

import keras
import tensorflow as tf

from keras_distill import _compat
from keras_distill.data.batch import unpack
from keras_distill.models.specs import Spec
from keras_distill.training.compiled_losses import CompiledLosses
from keras_distill.training.strategy_checks import check_batch_size
from keras_distill.types import Structure


def build_metrics(distiller: Any, losses: dict[str, Any], data: Structure) -> None:
    """Make the variables of the losses and metrics given to `compile`, without running the models.

    TensorFlow traces a step a second time if the first trace made a variable, as that of `metrics=["accuracy"]` does.
    For large models a trace takes seconds.

    Args:
        distiller: A compiled distiller.
        losses: `{tap of an output: CompiledLosses}`. A `TaskLoss` is left to the first step.
        data: `tf.TensorSpec`s of a batch, in the structure that `train_step` gets.
    """
    if distiller.run_eagerly or tf.config.functions_run_eagerly():
        return
    losses = {tap: compiled for tap, compiled in losses.items() if isinstance(compiled, CompiledLosses)}
    # With rollouts, the labels are those of texts that a step writes.
    if keras.utils.unpack_x_y_sample_weight(data)[1] is None or distiller.rollouts is not None:
        return
    outputs = {tap: _tensor_specs(distiller.specs.student[tap]) for tap in losses}

    def update(data, outputs):
        batch = distiller.training_batch(distiller.prepare_batch(unpack(data, distiller.optimizer.iterations)))
        for tap, compiled in losses.items():
            arguments = batch.inputs, batch.labels, outputs[tap], batch.sample_weight
            # In the order of a step, so that labels that do not fit raise the same error.
            compiled.loss(*arguments)
            compiled.update_metrics(*arguments)

    tf.function(update, autograph=False).get_concrete_function(data, outputs)


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
