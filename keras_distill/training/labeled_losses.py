"""Supervised losses on the labels that are present, equal to Keras where none is missing."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.data.labels import can_be_missing, label_mask
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.distribution import replicas
from keras_distill.losses import ChunkedCrossentropy
from keras_distill.models.masking import expand_to_rank
from keras_distill.types import Structure, Tensor

_SPARSE_CROSSENTROPY = keras.losses.sparse_categorical_crossentropy
# Losses that are means over independent components: (label, prediction) of a component that adds nothing to the sum.
_NEUTRAL = {
    keras.losses.mean_squared_error: (0.0, 0.0),
    keras.losses.mean_absolute_error: (0.0, 0.0),
    keras.losses.mean_absolute_percentage_error: (0.0, 0.0),
    keras.losses.mean_squared_logarithmic_error: (0.0, 0.0),
    keras.losses.huber: (0.0, 0.0),
    keras.losses.log_cosh: (0.0, 0.0),
    keras.losses.poisson: (0.0, 0.0),
    keras.losses.hinge: (1.0, 1.0),
    keras.losses.squared_hinge: (1.0, 1.0),
    keras.losses.binary_crossentropy: (0.0, 0.0),
    keras.losses.binary_focal_crossentropy: (0.0, 0.0),
}
# A logit whose sigmoid is 0.
_NEUTRAL_LOGIT = -100.0
_CALL_OF_FUNCTIONS = type(_compat.resolved_loss("mean_squared_error")).call


def reads_class_indices(loss: Any) -> bool:
    """Return whether a loss reads class indices as labels, so that -1 is a missing label.

    These are Keras' sparse crossentropy, `ChunkedCrossentropy`, and every loss with the attribute
    `reads_class_indices = True`.

    Args:
        loss: Loss of one output in any form that `compile` takes.
    """
    if isinstance(loss, str):
        loss = keras.losses.get(loss) if loss.lower() not in ("crossentropy", "ce") else _SPARSE_CROSSENTROPY
    function = getattr(loss, "fn", loss)
    declared = getattr(loss, "reads_class_indices", getattr(function, "reads_class_indices", None))
    if declared is not None:
        return bool(declared)
    return isinstance(loss, ChunkedCrossentropy) or function is _SPARSE_CROSSENTROPY


class LabeledLoss(keras.losses.Loss):
    """Loss given to `compile`, on the labels that are present.

    Keras calls it in the place of the user's loss. Where no label can be missing, or none is, its value is that of the
    user's loss, with the reduction of that loss. Else the mean is over what is labeled: a component of a loss that is
    a mean over components, such as the mean squared error or the binary crossentropy; a whole row, image or sequence,
    with all labels from which the loss computes one value, otherwise. On several replicas, the mean over the replicas,
    weighted by their fractions of the examples, is the value of one device for every reduction.

    Args:
        loss: Loss of one output in any form that `compile` takes.

    Raises:
        ValueError: For a loss that Keras does not know.
    """

    def __init__(self, loss: Any):
        depends_on_shapes = isinstance(loss, str) and loss.lower() in ("crossentropy", "ce")
        self._identifier = loss
        self._resolved = None if depends_on_shapes else _compat.resolved_loss(loss)
        self._ranks = ValueRanks()
        super().__init__(name=loss if depends_on_shapes else self._resolved.name)

    def __call__(self, y_true: Structure, y_pred: Structure, sample_weight: Tensor | None = None) -> Tensor:
        if self._resolved is None:
            self._resolved = _compat.resolved_loss(self._identifier, y_true, y_pred)
        loss = self._resolved
        class_indices = reads_class_indices(loss)
        if not has_single_tensors(y_true, y_pred):
            return loss(y_true, y_pred, sample_weight)
        if class_indices and keras.backend.is_float_dtype(y_true.dtype):
            one_hot = y_true.shape[1:] == y_pred.shape[1:] and y_true.shape[-1] != 1
            cast = "Cast them to integers: `y.astype('int32')`, with -1 for a missing label."
            advice = "They look one-hot: use CategoricalCrossentropy, or pass `y.argmax(-1)`." if one_hot else cast
            raise ValueError(
                f"The loss '{self.name}' reads class indices, but the labels have the dtype "
                f"{keras.backend.standardize_dtype(y_true.dtype)}. {advice}"
            )
        missing = can_be_missing(y_true.dtype, class_indices)
        if not missing and sample_weight is None and replicas.num_replicas() == 1:
            return loss(y_true, y_pred)
        return self._on_labeled(y_true, y_pred, sample_weight, class_indices)

    def call(self, y_true, y_pred):
        return self._resolved.call(y_true, y_pred)

    def _on_labeled(self, labels, outputs, sample_weight, class_indices):
        loss, several = self._resolved, replicas.num_replicas() > 1
        labels = ops.convert_to_tensor(labels)
        rank = self._ranks.of_loss(loss, labels, outputs)
        if not rank:
            # A single value for all examples, from which no label can be left out. Keras does not scale it.
            value = loss(labels, outputs, sample_weight)
            return value / replicas.num_replicas() if several and sample_weight is None else value
        sample_weight = None if sample_weight is None else _for_positions(sample_weight, rank)
        if can_be_missing(labels.dtype, class_indices):
            mask = label_mask(labels, class_indices)
            labels, outputs, present, weights = self._without_missing(labels, outputs, mask, rank)
        elif several:
            present = weights = expand_to_rank(ops.ones_like(outputs[:, *[0] * (len(outputs.shape) - 1)]), rank)
        else:
            return loss(labels, outputs, sample_weight)
        given = present if sample_weight is None else multiply_weights(sample_weight, present)
        weights = weights if sample_weight is None else multiply_weights(sample_weight, weights)
        return loss(labels, outputs, weights) * self._share(outputs, present, given, weights)

    def _without_missing(self, labels, outputs, mask, rank):
        """Return labels and outputs with neutral values, which values of the loss count, and their weights."""
        components, neutral = tuple(range(rank, len(labels.shape))), self._neutral()
        if not components or neutral is None:
            present = ops.all(mask, axis=components) if components else expand_to_rank(mask, rank)
            present = ops.cast(present, "float32")
            return ops.where(mask, labels, ops.zeros_like(labels)), outputs, present, present
        label, prediction = neutral
        outputs = _replaced(outputs, mask, prediction)
        labels = ops.where(mask, labels, ops.cast(label, labels.dtype))
        fraction = ops.mean(ops.cast(mask, "float32"), axis=components)
        return labels, outputs, ops.cast(fraction > 0, "float32"), ops.divide_no_nan(ops.ones_like(fraction), fraction)

    def _neutral(self):
        """Return a label and a prediction whose loss is 0, for a loss that is a mean over components, else None."""
        loss = self._resolved
        function = getattr(loss, "fn", None)
        if function not in _NEUTRAL or type(loss).call is not _CALL_OF_FUNCTIONS:
            return None
        label, prediction = _NEUTRAL[function]
        smoothing = getattr(loss, "label_smoothing", 0.0)
        # Smoothed, this label is 0.
        label -= 0.5 * smoothing / (1.0 - smoothing) if smoothing else 0.0
        return label, _NEUTRAL_LOGIT if getattr(loss, "from_logits", False) else prediction

    def _share(self, outputs, present, given, weights):
        """Return the factor between the value of Keras and this replica's part of the value on one device.

        Args:
            outputs: Outputs, with their Keras mask if they have one.
            present: Which values of the loss count, 0 or 1.
            given: The user's weights of these values, 0 for those that do not count.
            weights: Weights passed to Keras.
        """
        reduction = self._resolved.reduction
        if reduction in (None, "none", "sum"):
            if replicas.num_replicas() == 1:
                return 1.0
            examples = ops.cast(ops.shape(outputs)[0], "float32")
            return replicas.all_reduce_sum(examples) / ops.maximum(examples * replicas.num_replicas(), 1.0)
        # Keras divides a sum of weighted values by `divisor`, this replica's part of one device's by `wanted`.
        divisor, wanted = (weights, given) if reduction == "mean_with_sample_weight" else (None, present)
        divisor = ops.ones_like(present) if divisor is None else divisor
        mask = _compat.keras_mask(outputs)
        if mask is not None and len(mask.shape) == len(present.shape):
            mask = ops.cast(mask, "float32")
            divisor, wanted = divisor * mask, wanted * mask
        if replicas.num_replicas() == 1:
            return ops.divide_no_nan(ops.sum(divisor), ops.sum(wanted))
        examples = ops.cast(ops.shape(outputs)[0], "float32")
        wanted, total = replicas.all_reduce_sum([ops.sum(wanted), examples])
        return ops.divide_no_nan(ops.sum(divisor) * total, examples * wanted)


class ValueRanks:
    """Ranks of the values of losses and metric functions, found by tracing them once for each shape."""

    def __init__(self):
        self._ranks = {}

    def of_loss(self, loss: keras.losses.Loss, labels: Tensor, outputs: Tensor) -> int:
        """Return the rank of a loss before its reduction, e.g. 1 for a value per example."""
        if type(loss).call is keras.losses.Loss.call:
            # The loss implements `__call__` instead.
            return max(len(outputs.shape) - 1, 1)
        return self.of_function(loss.call, labels, outputs, loss.dtype)

    def of_function(self, function: Callable, labels: Tensor, outputs: Tensor, dtype: str | None = None) -> int:
        """Return the rank of a function's value.

        Args:
            function: Function of labels and outputs.
            labels: Labels.
            outputs: Outputs.
            dtype: Dtype to which the arguments are cast. Defaults to their own.
        """
        specs = [tf.TensorSpec(tensor.shape, dtype or tensor.dtype) for tensor in (labels, outputs)]
        key = tuple((tuple(spec.shape), spec.dtype) for spec in specs)
        if key not in self._ranks:
            traced = tf.function(function, autograph=False).get_concrete_function(*specs)
            self._ranks[key] = len(traced.structured_outputs.shape)
        return self._ranks[key]


def has_single_tensors(*structures: Structure) -> bool:
    """Return whether each structure is one dense tensor of numbers or booleans."""
    return all(
        not keras.tree.is_nested(each)
        and hasattr(each, "shape")
        and not isinstance(each, (tf.RaggedTensor, tf.SparseTensor))
        and tf.as_dtype(each.dtype) != tf.string
        for each in structures
    )


def _for_positions(sample_weight, rank):
    """Return weights of examples for a loss with positions: Keras would align them with the last axis of positions."""
    sample_weight = ops.convert_to_tensor(sample_weight)
    return expand_to_rank(sample_weight, rank) if 1 == len(sample_weight.shape) < rank else sample_weight


def _replaced(outputs, mask, prediction):
    """Return outputs with the neutral prediction where the mask is False, their Keras mask and logits kept."""
    mask = expand_to_rank(mask, len(outputs.shape)) if len(mask.shape) <= len(outputs.shape) else ops.any(mask, axis=-1)
    replaced = ops.where(mask, outputs, ops.cast(prediction, outputs.dtype))
    logits, padding = _compat.keras_logits(outputs), _compat.keras_mask(outputs)
    if logits is not None:
        _compat.set_keras_logits(replaced, ops.where(mask, logits, ops.cast(_NEUTRAL_LOGIT, logits.dtype)))
    if padding is not None:
        _compat.set_keras_mask(replaced, padding)
    return replaced
