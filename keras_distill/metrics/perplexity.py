"""Perplexity of language models."""

from typing import Any

import keras
from keras import ops

from keras_distill import _compat
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.losses.chunked_crossentropy import ChunkedCrossentropy
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.maths import float32
from keras_distill.models.lm_head import logits_layer
from keras_distill.models.softmax import as_logits
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


@keras.saving.register_keras_serializable("keras_distill")
class Perplexity(keras.metrics.Metric):
    """Perplexity per token of logits, or of hidden states whose logits are computed in chunks.

    ```
    perplexity = exp(sum of weight * -log p(token) / sum of weight)
    ```

    The sums run over all tokens of all batches, so the value does not depend on how texts are batched. Missing labels
    and positions with a Keras mask do not count. The metric compares predictions with labels: any Keras model can use
    it; in a `Distiller` it measures the student. Under `weighted_metrics` it uses the sample weights.

    Args:
        layer: For a model of hidden states: path of the layer that computes the logits, for `Distiller.compile`, or the
            built layer itself. Defaults to None: for `Distiller.compile`, the last layer of a `HiddenStates` student;
            any other predictions are logits, or come directly from a final softmax.
        tokens: Maximum number of tokens per chunk, with `layer`, >= 1. Defaults to 64.
        ignore_class: Word index that does not count, such as the padding, beside -1. Defaults to None.
        name: Name in the logs. Defaults to "perplexity".
        dtype: Dtype of the state. Defaults to "float32".

    Raises:
        ValueError: If `layer` is neither a path nor a built layer, `tokens` is not an integer >= 1, or `ignore_class`
            is neither an integer >= 0 nor None.

    Example:

    >>> metric = Perplexity()
    >>> metric.update_state([[0, 1]], np.log([[[0.5, 0.5], [0.5, 0.5]]]))
    >>> round(float(metric.result()), 3)
    2.0
    """

    _direction = "down"

    def __init__(
        self,
        layer: str | keras.layers.Layer | None = None,
        tokens: int = 64,
        ignore_class: int | None = None,
        name: str = "perplexity",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype or "float32")
        self.tokens = check_integer(tokens, "tokens")
        self.ignore_class = check_integer(ignore_class, "ignore_class", at_least=0, optional=True)
        self._given = None if layer is None else ChunkedCrossentropy(layer, tokens, reduction=None)
        self.crossentropy = self._given
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def connected(self, student: keras.Model, hidden_shape: tuple) -> "Perplexity":
        """Look up the layer, and return the metric itself. `Distiller.compile` calls this.

        Args:
            student: Student model.
            hidden_shape: Shape of the student's output, batch axis included.

        Raises:
            ValueError: If the layer does not exist, does not accept the hidden states or ends in a softmax.
        """
        crossentropy = self._given
        if crossentropy is None and logits_layer(student) is not None:
            crossentropy = ChunkedCrossentropy(tokens=self.tokens, reduction=None)
        self.crossentropy = None if crossentropy is None else crossentropy.connected(student, hidden_shape)
        return self

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            y_true: Word indices, shape `[batch, tokens]`; -1 for a missing label.
            y_pred: Logits, shape `[batch, tokens, words]`, or hidden states.
            sample_weight: Weights, shape `[batch]` or `[batch, tokens]`; None weights all equally.
        """
        predictions = ops.convert_to_tensor(y_pred)
        labels = ops.reshape(ops.cast(ops.convert_to_tensor(y_true), "int32"), ops.shape(predictions)[:-1])
        present = labels >= 0
        if self.ignore_class is not None:
            present = ops.logical_and(present, labels != self.ignore_class)
        mask = _compat.keras_mask(y_pred)
        if mask is not None:
            present = ops.logical_and(present, mask)
        weight = ops.cast(present, "float32")
        weight = weight if sample_weight is None else multiply_weights(ops.convert_to_tensor(sample_weight), weight)
        nats = self._nats(ops.where(present, labels, -1), predictions)
        # Tokens with weight 0 may be NaN, and NaN * 0 is NaN.
        self.total.assign_add(ops.sum(ops.where(weight != 0, weight * nats, 0.0)))
        self.count.assign_add(ops.sum(weight))

    def _nats(self, labels, predictions):
        if self.crossentropy is not None:
            return self.crossentropy.call(labels, *float32(predictions))
        (logits,) = finite_logits(as_logits(predictions))
        return ops.sparse_categorical_crossentropy(ops.maximum(labels, 0), logits, from_logits=True)

    def result(self) -> Tensor:
        """Return the perplexity, 1 before the first token."""
        return ops.exp(ops.divide_no_nan(self.total, self.count))

    def get_config(self) -> dict[str, Any]:
        layer = None if self._given is None else self._given.layer
        return {**super().get_config(), "layer": layer, "tokens": self.tokens, "ignore_class": self.ignore_class}
