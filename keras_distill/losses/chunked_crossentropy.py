"""Cross-entropy over a large vocabulary, computed in chunks of tokens to save memory (fused linear cross-entropy)."""

import copy
from typing import Any

import keras
from keras import ops

from keras_distill.losses.checks import Shape
from keras_distill.models.chunking import in_chunks
from keras_distill.models.layers import find_layer
from keras_distill.models.lm_head import LMHead, logits_layer
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


@keras.saving.register_keras_serializable("keras_distill")
class ChunkedCrossentropy(keras.losses.Loss):
    """Chunked sparse categorical cross-entropy (fused linear cross-entropy) of hidden states, for `compile`.

    The counterpart of `Chunked` for labels. The layer that computes the logits belongs to the compiled model, which
    trains and saves it. Sample weights, masks and reduction work as in any Keras loss.

    Args:
        layer: Path of the student's layer that computes logits from hidden states, for `Distiller.compile`, or the
            built layer itself, for any model. A `Dense`, or an `Embedding` for tied weights. Defaults to None: the last
            layer of a `HiddenStates` student, for `Distiller.compile`.
        tokens: Maximum number of tokens per chunk, counted over all texts, >= 1. A chunk's logits take
            `4 * tokens * words` bytes. Defaults to 64.
        name: Name of the loss. Defaults to "chunked_crossentropy".
        **kwargs: Arguments of `keras.losses.Loss`, such as `reduction`.

    Call arguments:
        y_true: Word indices, shape `[batch, tokens]`. -1 marks a missing label, whose loss is 0.
        y_pred: Hidden states, shape `[batch, tokens, dim]`.

    Returns:
        Nats, reduced by `reduction`.

    Raises:
        ValueError: If `layer` is neither a path nor a built layer nor None, or if `tokens` is not an integer >= 1. When
            compiled: if the layer does not exist, does not accept the hidden states or ends in a softmax, or if it is
            None and the student is no `HiddenStates` model.

    Reference:
        Hsu et al., 2024, https://arxiv.org/abs/2410.10989; Wijmans et al., ICLR 2025, https://arxiv.org/abs/2411.09009.

    Example:
    >>> model = HiddenStates(student)
    >>> model.compile("adam", ChunkedCrossentropy(model.output_layer))
    """

    def __init__(
        self,
        layer: str | keras.layers.Layer | None = None,
        tokens: int = 64,
        name: str | None = "chunked_crossentropy",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        is_built = isinstance(layer, keras.layers.Layer) and layer.built
        if not (layer is None or isinstance(layer, str) or is_built):
            raise ValueError(
                "`layer` of ChunkedCrossentropy must be the path of the layer that computes the logits, or the built "
                f"layer itself: `ChunkedCrossentropy(model.get_layer('logits'))`. Received: {layer!r}"
            )
        self.layer = layer.name if is_built else layer
        self.tokens = check_integer(tokens, "tokens")
        # The wrapper object hides the layer from Keras, which would save its weights a second time.
        self.lm_head = LMHead(layer) if is_built else None

    def connected(self, student: keras.Model, hidden_shape: Shape) -> "ChunkedCrossentropy":
        """Return the loss with its layer looked up, and check that the layer accepts the hidden states.

        Args:
            student: Student model.
            hidden_shape: Shape of the hidden states, batch axis included.

        Returns:
            The loss itself if it was given a layer. Otherwise a copy, so that one loss may train several students.

        Raises:
            ValueError: If the layer does not exist, does not accept the hidden states or ends in a softmax, or if no
                layer was named and the student is no `HiddenStates` model.
        """
        loss = self
        if self.lm_head is None:
            layer = logits_layer(student) if self.layer is None else find_layer(student, self.layer)
            if layer is None:
                raise ValueError(
                    f"ChunkedCrossentropy does not know which layer of '{student.name}' computes the logits: it is no "
                    "HiddenStates model. Name the layer, such as `ChunkedCrossentropy('logits')`, or use "
                    "keras.losses.SparseCategoricalCrossentropy(from_logits=True) if the model returns logits."
                )
            loss = copy.copy(self)
            loss.lm_head = LMHead(layer)
        loss.lm_head.shape(hidden_shape)
        return loss

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.lm_head is None:
            known = "no layer" if self.layer is None else f"only the path '{self.layer}' of its layer"
            layer = "output_layer" if self.layer is None else f"get_layer('{self.layer}')"
            raise ValueError(
                f"ChunkedCrossentropy has {known}. `Distiller.compile` looks it up; for another model, pass the layer: "
                f"`ChunkedCrossentropy(model.{layer})`."
            )
        trained, fixed = self.lm_head.weights()

        def chunk_loss(hidden, trained, others):
            (labels,) = others
            logits = self.lm_head.logits(hidden, trained, fixed)
            nats = ops.sparse_categorical_crossentropy(ops.maximum(labels, 0), logits, from_logits=True)
            return ops.where(labels >= 0, nats, 0.0)

        rows = ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        values = in_chunks(chunk_loss, rows, trained, (labels,), self.tokens)
        return ops.reshape(values, ops.shape(y_pred)[:-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layer": self.layer, "tokens": self.tokens}
