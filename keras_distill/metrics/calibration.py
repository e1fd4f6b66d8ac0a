"""Whether a model is right as often as it says."""

import keras
from keras import ops

from keras_distill.data.labels import label_mask
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.losses.maths import one_hot_labels


@keras.saving.register_keras_serializable("keras_distill")
class ExpectedCalibrationError(keras.metrics.Metric):
    """Expected calibration error (ECE): how far confidence is from accuracy, over bins of equal width.

    ```
    ECE = sum_b |B_b| / n * |accuracy(B_b) - confidence(B_b)|
    B_b = the examples whose confidence, the probability of the most probable class, is in ((b - 1) / bins, b / bins]
    ```

    0 to 1, and 0 for a calibrated model. A metric of labels for any Keras model: in `compile(metrics=[...])` it is that
    of the student. It is taken over all batches at once, and not their mean. Missing labels are left out.

    Args:
        bins: How many. Default 15.
        from_logits: Whether the predictions are logits. Default True, unlike Keras' metrics: students give logits.
        name: Defaults to "expected_calibration_error".

    Raises:
        ValueError: If `bins` is no integer of 1 or more; in the first step, for a single class.

    Reference:
        Naeini, Cooper and Hauskrecht, AAAI 2015, https://doi.org/10.1609/aaai.v29i1.9602; Guo et al., ICML 2017,
        https://arxiv.org/abs/1706.04599
    """

    def __init__(self, bins=15, from_logits=True, name="expected_calibration_error", dtype=None):
        super().__init__(name=name, dtype=dtype or "float32")
        if not isinstance(bins, int) or isinstance(bins, bool) or bins < 1:
            raise ValueError(f"`bins` must be an integer of 1 or more. Received: {bins!r}")
        self.bins = bins
        self.from_logits = from_logits
        self.surplus = self.add_variable(shape=(bins,), initializer="zeros", name="surplus")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: Class numbers, shape `[batch, positions...]`, or one-hot rows.
            y_pred: Logits, shape `[batch, positions..., classes]`, or probabilities with `from_logits=False`.
            sample_weight: Shape `[batch]` or `[batch, positions...]`; None counts all alike.
        """
        labels, predictions = ops.convert_to_tensor(y_true), ops.cast(ops.convert_to_tensor(y_pred), "float32")
        if len(predictions.shape) < 2 or predictions.shape[-1] == 1:
            raise ValueError(
                f"Metric '{self.name}' takes probabilities of two classes or more. Received: predictions of shape "
                f"{tuple(predictions.shape)}."
            )
        weight = ops.cast(label_mask(labels, predictions), "float32")
        weight = weight if sample_weight is None else multiply_weights(sample_weight, weight)
        probabilities = ops.softmax(predictions, axis=-1) if self.from_logits else predictions
        confidence = ops.max(probabilities, axis=-1)
        right = ops.equal(ops.argmax(one_hot_labels(labels, predictions), axis=-1), ops.argmax(probabilities, axis=-1))
        bins = ops.clip(ops.cast(ops.ceil(confidence * self.bins), "int32") - 1, 0, self.bins - 1)
        surplus = weight * (confidence - ops.cast(right, "float32"))
        # A bin's |accuracy - confidence|, times its share, is that of their sums.
        sums = ops.sum(
            ops.reshape(surplus, (-1, 1)) * ops.one_hot(ops.reshape(bins, (-1,)), self.bins, dtype="float32"), axis=0
        )
        self.surplus.assign_add(sums)
        self.count.assign_add(ops.sum(weight))

    def result(self):
        return ops.divide_no_nan(ops.sum(ops.abs(self.surplus)), self.count)

    def get_config(self):
        return {**super().get_config(), "bins": self.bins, "from_logits": self.from_logits}
