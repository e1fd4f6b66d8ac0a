"""Expected calibration error (ECE)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.labels import are_class_indices, label_mask
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.losses.maths import one_hot_labels
from keras_distill.models.softmax import as_logits
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


@keras.saving.register_keras_serializable("keras_distill")
class ExpectedCalibrationError(keras.metrics.Metric):
    """Expected calibration error (ECE): mean gap between confidence and accuracy over bins of equal width.

    ```
    ECE = sum_b |B_b| / n * |accuracy(B_b) - confidence(B_b)|
    B_b = examples with confidence in ((b - 1) / bins, b / bins]; confidence = probability of the most probable class
    ```

    The value is between 0 and 1; 0 means a calibrated model. This metric compares predictions with labels, so any Keras
    model can use it; in a `Distiller` it measures the student. The bins accumulate over all batches, so the value is
    not a mean of batch values. Missing labels do not count.

    Args:
        bins: Number of bins, >= 1. 10 to 15 is typical. Defaults to 15.
        from_logits: Whether the predictions are logits, or come directly from a final softmax whose logits can be read.
            Defaults to True, unlike Keras' own metrics, because students output logits.
        name: Name in the logs. Defaults to "expected_calibration_error".
        dtype: Dtype of the state. Defaults to "float32".

    Raises:
        ValueError: If `bins` is not an integer >= 1; in `update_state`, if the predictions have a single class.

    Example:

    >>> metric = ExpectedCalibrationError(bins=10, from_logits=False)
    >>> metric.update_state([0, 0], [[0.9, 0.1], [0.1, 0.9]])
    >>> round(float(metric.result()), 3)
    0.4

    Reference:
        Naeini, Cooper and Hauskrecht, AAAI 2015, https://doi.org/10.1609/aaai.v29i1.9602; Guo et al., ICML 2017,
        https://arxiv.org/abs/1706.04599
    """

    _direction = "down"

    def __init__(
        self, bins: int = 15, from_logits: bool = True, name: str = "expected_calibration_error", dtype: Any = None
    ):
        super().__init__(name=name, dtype=dtype or "float32")
        self.bins = check_integer(bins, "bins")
        self.from_logits = from_logits
        self.gap = self.add_variable(shape=(self.bins,), initializer="zeros", name="gap")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch to the bins.

        Args:
            y_true: Class indices, shape `[batch, positions...]`, or one-hot labels, shape
                `[batch, positions..., classes]`.
            y_pred: Logits, shape `[batch, positions..., classes]`, or probabilities with `from_logits=False`.
            sample_weight: Weights, shape `[batch]` or `[batch, positions...]`; None weights all equally.

        Raises:
            ValueError: If the predictions have fewer than two classes.
        """
        labels, predictions = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        # Keras passes the probabilities of a model that ends in a softmax.
        predictions = ops.cast(as_logits(predictions) if self.from_logits else predictions, "float32")
        if len(predictions.shape) < 2 or predictions.shape[-1] == 1:
            raise ValueError(
                f"Metric '{self.name}' needs predictions of at least two classes. Received: predictions of shape "
                f"{tuple(predictions.shape)}."
            )
        present = label_mask(labels, are_class_indices(labels, predictions))
        if len(labels.shape) == len(predictions.shape):
            present = ops.all(present, axis=-1)
        weight = ops.cast(present, "float32")
        weight = weight if sample_weight is None else multiply_weights(sample_weight, weight)
        probabilities = ops.softmax(predictions, axis=-1) if self.from_logits else predictions
        confidence = ops.max(probabilities, axis=-1)
        predicted = ops.argmax(probabilities, axis=-1)
        correct = ops.equal(ops.argmax(one_hot_labels(labels, predictions), axis=-1), predicted)
        bins = ops.clip(ops.cast(ops.ceil(confidence * self.bins), "int32") - 1, 0, self.bins - 1)
        # |accuracy - confidence| of a bin, times its share of the examples, equals the absolute sum of these
        # differences over the bin, divided by n.
        gap = weight * (confidence - ops.cast(correct, "float32"))
        one_hot_bins = ops.one_hot(ops.reshape(bins, (-1,)), self.bins, dtype="float32")
        self.gap.assign_add(ops.sum(ops.reshape(gap, (-1, 1)) * one_hot_bins, axis=0))
        self.count.assign_add(ops.sum(weight))

    def result(self) -> Tensor:
        return ops.divide_no_nan(ops.sum(ops.abs(self.gap)), self.count)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bins": self.bins, "from_logits": self.from_logits}
