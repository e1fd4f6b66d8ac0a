"""Weighted sum of the losses of a distiller, and its logs."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch, batch_size
from keras_distill.training.loss_weight import WeightedLoss
from keras_distill.training.reductions import add_up, multiply, regularization_losses, replica_fraction
from keras_distill.types import Tensor


class TotalLoss:
    """Weighted sum of the losses of a distiller, of each of its models and of all together.

    Args:
        parts: `{log name: WeightedLoss}` of what `losses_of` returns.
        trained: `{log name of a sum: model}`: each sum includes the regularizers of its model.
        extra_layers: Other layers with regularizers, such as heads. Defaults to none.

    Attributes:
        parts: The argument.
        trackers: `{log name: metric}` of the sums, the parts and the weights with state.
        supervised_names: Log names of the supervised losses.
    """

    def __init__(self, parts: Mapping[str, WeightedLoss], trained: Mapping[str, keras.Model], extra_layers: Any = ()):
        self.parts, self._trained, self._extra_layers = dict(parts), dict(trained), tuple(extra_layers)
        names = ["loss"]
        for total in trained:
            names += [total, *(name for name, part in parts.items() if part.total == total)]
        names += [part.weight_name for part in parts.values() if part.weight.state]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in dict.fromkeys(names)}
        self.supervised_names = frozenset(part.supervised for part in parts.values())

    @property
    def term_names(self) -> set[str]:
        """Log names of what needs a teacher."""
        weights = {part.weight_name for part in self.parts.values()}
        return {name for name in self.parts if name not in self.supervised_names} | weights

    def regularization(self, compiled: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `{log name of a sum: regularizers of its model}`, to be called right after the models ran.

        Args:
            compiled: `{log name of a sum: CompiledLosses or TaskLoss}`. A task counts the regularizers itself.
        """
        return {
            name: 0.0 if compiled[name].counts_regularizers else regularization_losses([model])
            for name, model in self._trained.items()
        }

    def values(
        self, losses: Mapping[str, Tensor], regularization: Mapping[str, Tensor], batch: Batch, training: bool
    ) -> dict[str, Tensor]:
        """Return this replica's means by log name: the total loss, its parts, sums of models, weights with state.

        Args:
            losses: `{log name: loss}`, as `losses_of` returns them. Parts may be missing in a validation.
            regularization: Result of `regularization`.
            batch: The `Batch`.
            training: Whether weights with state are updated.

        Raises:
            ValueError: For a weight that follows the supervised loss, and a batch without labels.
        """
        totals, weights = dict(regularization), {}
        if len(losses) > 1:
            # Keras takes the gradient of the sum of a loss without reduction.
            losses = {name: ops.sum(loss) if len(ops.shape(loss)) else loss for name, loss in losses.items()}
        for name, part in self.parts.items():
            if name not in losses:
                continue
            if training:
                _check_labels(part, batch)
                part.weight.update(losses[name], losses[part.supervised], batch)
            weight = part.weight.value(batch.step)
            totals[part.total] = add_up([totals[part.total], multiply(weight, losses[name])])
            if part.weight.state:
                weights[part.weight_name] = weight
        total = ops.convert_to_tensor(add_up([*totals.values(), regularization_losses(self._extra_layers)]))
        return {**totals, "loss": total, **losses, **weights}

    def track(self, values: Mapping[str, Tensor], batch: Batch) -> None:
        """Add the values of a batch to the trackers."""
        examples = ops.cast(batch_size(batch.inputs), "float32")
        for name, value in values.items():
            tracker = self.trackers[name]
            if len(ops.shape(value)):
                # The values of a loss without reduction are scaled so that the sum over the replicas is that of one
                # device.
                tracker.update_state(multiply(replica_fraction(batch), value), sample_weight=examples)
                continue
            # The same as `update_state`, with a third of its operations.
            tracker.total.assign_add(ops.cast(value, tracker.dtype) * examples)
            tracker.count.assign_add(examples)


def _check_labels(part, batch):
    if part.weight.needs_supervised_loss and batch.labels is None:
        raise ValueError(
            f"The weight of {part.title} is a {type(part.weight).__name__}, which follows the supervised loss, but the "
            "batch has no labels. Pass labels to `fit`, or use a number as weight."
        )
