"""Metrics on the labels that are present, equal to Keras where none is missing."""

from typing import Any

import keras
from keras import ops

from keras_distill import _compat
from keras_distill.data.labels import are_class_indices, can_be_missing, label_mask
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.models.masking import expand_to_rank
from keras_distill.training.labeled_losses import ValueRanks, has_single_tensors
from keras_distill.types import Structure, Tensor

_OF_CLASS_INDICES = (
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.SparseCategoricalCrossentropy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)
# Metrics that count each component of a label.
_OF_COMPONENTS = (
    keras.metrics.AUC,
    keras.metrics.FalseNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.Precision,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.Recall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
    keras.metrics.TrueNegatives,
    keras.metrics.TruePositives,
)


class LabeledMetric(keras.metrics.Metric):
    """Metric given to `compile`, on the labels that are present.

    Keras calls it in the place of the user's metric. Where no label can be missing, it passes on what it gets. Else it
    passes weights of 0 for missing labels: of single components to metrics that count these, such as `AUC`, and of
    incomplete rows to others. A function that returns one value for a batch gets the labels as they are.

    Args:
        metric: Metric in any form that `compile` takes.
        class_indices: Whether the labels are class indices because the loss reads such.

    Attributes:
        metric: The user's metric; None for "accuracy" before the first batch.

    Raises:
        ValueError: For a metric that Keras does not know.
    """

    def __init__(self, metric: Any, class_indices: bool):
        self._identifier = metric
        resolved = None if str(metric).lower() in ("accuracy", "acc") else _compat.resolved_metric(metric)
        super().__init__(name=str(metric) if resolved is None else resolved.name)
        self.metric = resolved
        self._class_indices = class_indices
        self._ranks = ValueRanks()

    def update_state(self, y_true: Structure, y_pred: Structure, sample_weight: Tensor | None = None) -> None:
        """Add a batch, as the user's metric does."""
        if self.metric is None:
            self.metric = _compat.resolved_metric(self._identifier, y_true, y_pred)
        if has_single_tensors(y_true, y_pred):
            class_indices = self._class_indices or isinstance(self.metric, _OF_CLASS_INDICES)
            class_indices = class_indices and are_class_indices(y_true, y_pred)
            if can_be_missing(y_true.dtype, class_indices):
                y_true, sample_weight = self._without_missing(y_true, y_pred, sample_weight, class_indices)
        self.metric.update_state(y_true, y_pred, sample_weight=sample_weight)

    def _without_missing(self, labels, outputs, sample_weight, class_indices):
        """Return the labels with 0 in place of missing ones, and the weights."""
        function = _compat.function_of_metric(self.metric)
        if function is not None:
            rank = self._ranks.of_function(function, labels, outputs)
        else:
            rank = len(labels.shape)
            # The IoU of sparse labels counts each component, too.
            of_components = isinstance(self.metric, _OF_COMPONENTS) or getattr(self.metric, "sparse_y_true", False)
            if not of_components and rank == len(outputs.shape) and rank > 1:
                rank -= 1
        if not rank:
            return labels, sample_weight
        present = label_mask(labels, class_indices)
        labels = ops.where(present, labels, ops.zeros_like(labels))
        components = tuple(range(rank, len(present.shape)))
        present = ops.all(present, axis=components) if components else expand_to_rank(present, rank)
        if sample_weight is None:
            # Metrics that count, such as `MeanIoU`, have an integer dtype.
            return labels, ops.cast(present, self.metric.dtype)
        return labels, multiply_weights(sample_weight, ops.cast(present, "float32"))

    @property
    def _direction(self):
        # Read by Keras' callbacks that monitor a metric.
        return self.metric._direction

    def result(self):
        return self.metric.result()

    def reset_state(self):
        if self.metric is not None:
            self.metric.reset_state()
