"""Losses of logits over a large vocabulary, computed in chunks of tokens to save memory (fused linear KD)."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss, LogitLossWrapper
from keras_distill.losses.checks import Shape, shapes_match
from keras_distill.losses.maths import float32
from keras_distill.models.layers import find_layer
from keras_distill.models.lm_head import LMHead
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


def in_chunks(
    function: Callable[..., Tensor], rows: Tensor, weights: list[Tensor], others: tuple[Tensor, ...], tokens: int
) -> Tensor:
    """Compute a function of rows chunk by chunk, in the forward and in the backward pass.

    The backward pass recomputes each chunk, since its logits were discarded. Part of this cost is recovered: a chunk
    fits into the processor's cache, the logits of all rows do not.

    Args:
        function: Called as `function(rows, weights, others)` with the rows of a chunk. Returns shape `[chunk]`. Each
            row must be computed independently.
        rows: Shape `[rows, ...]`. Receives a gradient.
        weights: List of tensors. Receive gradients.
        others: Tuple of tensors of shape `[rows, ...]`, without gradient.
        tokens: Maximum number of rows per chunk, >= 1. All chunks have the same size; the last is padded with zeros.

    Returns:
        Shape `[rows]`.

    Reference:
        Hsu et al., 2024, https://arxiv.org/abs/2410.10989, and Wijmans et al., ICLR 2025,
        https://arxiv.org/abs/2411.09009, had the idea: no pass stores the logits of all rows.
    """
    num_rows = ops.shape(rows)[0]
    num_chunks = -(-num_rows // tokens)
    num_chunks = max(num_chunks, 1) if isinstance(num_chunks, int) else ops.maximum(num_chunks, 1)
    size = -(-num_rows // num_chunks)

    def split(tensor):
        padding = ops.zeros((num_chunks * size - num_rows, *tensor.shape[1:]), tensor.dtype)
        return ops.reshape(ops.concatenate([tensor, padding]), (num_chunks, size, *tensor.shape[1:]))

    others = tuple(ops.stop_gradient(split(tensor)) for tensor in others)

    @tf.custom_gradient
    def run(rows, *weights):
        def backward(upstream):
            def add_chunk(index, row_gradients, sums):
                chunk, chunk_others = rows[index], tuple(tensor[index] for tensor in others)
                with tf.GradientTape() as tape:
                    tape.watch([chunk, *weights])
                    values = function(chunk, weights, chunk_others)
                # The padding of the last chunk has an upstream gradient of 0.
                gradient, *gradients = tape.gradient(
                    values, [chunk, *weights], upstream[index], unconnected_gradients=tf.UnconnectedGradients.ZERO
                )
                sums = tuple(total + ops.cast(part, total.dtype) for total, part in zip(sums, gradients))
                return index + 1, row_gradients.write(index, gradient), sums

            state = (
                tf.constant(0),
                tf.TensorArray(rows.dtype, num_chunks, element_shape=rows.shape[1:]),
                # Summed in float32: half precision would lose the gradients of late chunks.
                tuple(ops.zeros(weight.shape, "float32") for weight in weights),
            )
            _, row_gradients, sums = tf.while_loop(
                lambda index, *_: index < num_chunks,
                add_chunk,
                state,
                parallel_iterations=1,
                maximum_iterations=num_chunks,
            )
            return row_gradients.stack(), *(ops.cast(total, weight.dtype) for total, weight in zip(sums, weights))

        values = tf.map_fn(
            lambda chunk: function(chunk[0], weights, chunk[1]),
            (rows, others),
            fn_output_signature=tf.TensorSpec(rows.shape[1:2], "float32"),
            # More parallel iterations would hold the logits of several chunks in memory.
            parallel_iterations=1,
        )
        return values, backward

    return ops.reshape(run(split(rows), *weights), (-1,))[:num_rows]


@keras.saving.register_keras_serializable("keras_distill")
class Chunked(LogitLossWrapper):
    """Chunked distillation loss (fused linear KD): applies another loss of logits to a few tokens at a time.

    The term taps hidden states, not logits. The layers that compute logits from them belong to the models; the layer of
    the student is trained. Logits of a chunk are discarded after use and recomputed for the gradient. Value and
    gradient are those of the inner loss.

    Use it where logits dominate memory: 8 texts of 128 tokens and 32,000 words have logits of 131 MB, and a loss and
    its gradient hold them a dozen times or more.

    Args:
        loss: Inner loss of logits that compares each position independently: `KLDivergence`, `ReverseKL`,
            `JensenShannon`, `TotalVariation`, `LogitMSE`, `DecoupledKD`, `BinaryKD`, `TopK`, or a
            `LogitStandardization` of one of these. Defaults to None: the loss of `KLDivergence(temperature=1.0)`.
        student_layer: Path of the layer that computes logits from the student's hidden states: a `Dense`, or an
            `Embedding` for tied weights. Defaults to None: the tap returns logits.
        teacher_layer: Path of the layer that computes logits from the teacher's hidden states. It is not trained.
            Defaults to None: the tap returns logits, as with a `CachedTeacher`.
        tokens: Maximum number of tokens per chunk, counted over all texts, >= 1. A chunk's logits take
            `4 * tokens * words` bytes. Defaults to 64.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not a loss of logits or compares several positions or examples, or if `tokens` is not
            an integer >= 1. When the `Distiller` is created: if a layer does not exist, does not accept the hidden
            states or ends in a softmax, or if the sizes of the vocabularies differ.

    Reference:
        See `in_chunks`.

    Example:
    >>> term = Term(Chunked(KLDivergence(2.0), student_layer="logits", teacher_layer="logits"))
    >>> distiller = Distiller(student=HiddenStates(student), teacher=HiddenStates(teacher), terms=[term])
    >>> distiller.compile("adam", ChunkedCrossentropy("logits"))
    """

    # The taps are hidden states by default. An instance without layers sets True.
    logits = False
    default_temperature = 1.0

    def __init__(
        self,
        loss: DistillationLoss | None = None,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        tokens: int = 64,
        **kwargs: Any,
    ):
        super().__init__(loss, **kwargs)
        if loss is not None and not loss.pointwise:
            raise ValueError(
                "Chunked takes a loss that compares each position independently and has no weights, such as "
                f"`Chunked(KLDivergence())`. Received: a {type(loss).__name__}"
            )
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer
        self.tokens = check_integer(tokens, "tokens")
        # With hidden states a `Term` must accept any activation, and no other loss can wrap this one.
        self.logits = student_layer is None and teacher_layer is None
        self._student, self._teacher = LMHead(), LMHead()

    def connect(self, student: keras.Model, teacher: Any) -> None:
        if self.student_layer is not None:
            self._student = LMHead(find_layer(student, self.student_layer))
        if self.teacher_layer is not None:
            self._teacher = LMHead(teacher.find_layer(self.teacher_layer))

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Do nothing: a loss that was loaded from a file is built after `connect`, which looks up its layers."""

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        student_logits, teacher_logits = self._student.shape(student_shape), self._teacher.shape(teacher_shape)
        if student_logits[-1] != teacher_logits[-1]:
            raise ValueError(
                f"The student's vocabulary has {student_logits[-1]} words, the teacher's {teacher_logits[-1]}: layer "
                f"'{self.student_layer}' maps {student_shape} to {student_logits}, '{self.teacher_layer}' maps "
                f"{teacher_shape} to {teacher_logits}. Use models with the same words in the same order."
            )
        super().build(student_logits, teacher_logits)

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        """Return True if the positions match. Hidden states may differ in size."""
        stop = None if self.logits else -1
        return shapes_match(student_shape[1:stop], teacher_shape[1:stop])

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student, teacher = float32(student, teacher)
        shape, rank = ops.shape(student)[:-1], len(student.shape) - 1
        trained, fixed = self._student.weights()
        teacher_weights = [[ops.stop_gradient(weight) for weight in group] for group in self._teacher.weights()]
        step = ops.convert_to_tensor(batch.step)
        others = [teacher, *([ops.convert_to_tensor(batch.labels)] if self.needs_labels else [])]

        def chunk_loss(student, trained, others):
            teacher, *labels = others
            student = self._student.logits(student, trained, fixed)
            teacher = ops.stop_gradient(self._teacher.logits(teacher, *teacher_weights))
            # Each token is passed as an example without positions.
            return self.compare_inner(student, teacher, Batch(None, *labels, step=step))

        rows = ops.reshape(student, (-1, student.shape[-1]))
        others = tuple(ops.reshape(tensor, (-1, *tensor.shape[rank:])) for tensor in others)
        values = ops.reshape(in_chunks(chunk_loss, rows, trained, others, self.tokens), shape)
        return mean_over_positions(values, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        config = {"student_layer": self.student_layer, "teacher_layer": self.teacher_layer, "tokens": self.tokens}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_distill")
class ChunkedCrossentropy(keras.losses.Loss):
    """Chunked sparse categorical cross-entropy (fused linear cross-entropy) of hidden states, for `compile`.

    The counterpart of `Chunked` for labels. The layer that computes the logits belongs to the compiled model, which
    trains and saves it. Sample weights, masks and reduction work as in any Keras loss.

    Args:
        layer: Path of the student's layer that computes logits from hidden states, for `Distiller.compile`, or the
            built layer itself, for any model. A `Dense`, or an `Embedding` for tied weights.
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
        ValueError: If `layer` is neither a path nor a built layer, or if `tokens` is not an integer >= 1. When
            compiled: if the layer does not exist, does not accept the hidden states or ends in a softmax.

    Reference:
        See `in_chunks`.

    Example:
    >>> model = HiddenStates(student)
    >>> model.compile("adam", ChunkedCrossentropy(student.get_layer("logits")))
    """

    def __init__(
        self,
        layer: str | keras.layers.Layer,
        tokens: int = 64,
        name: str | None = "chunked_crossentropy",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        is_path, is_built = isinstance(layer, str), isinstance(layer, keras.layers.Layer) and layer.built
        if not (is_path or is_built):
            raise ValueError(
                "`layer` of ChunkedCrossentropy must be the path of the layer that computes the logits, or the built "
                f"layer itself: `ChunkedCrossentropy(model.get_layer('logits'))`. Received: {layer!r}"
            )
        self.layer = layer if is_path else layer.name
        self.tokens = check_integer(tokens, "tokens")
        # The wrapper object hides the layer from Keras, which would save its weights a second time.
        self.lm_head = None if is_path else LMHead(layer)

    def connect(self, student: keras.Model, hidden_shape: Shape) -> None:
        """Look up the layer and check that it accepts the hidden states.

        Args:
            student: Student model.
            hidden_shape: Shape of the hidden states, batch axis included.

        Raises:
            ValueError: If the layer does not exist, does not accept the hidden states or ends in a softmax.
        """
        self.lm_head = self.lm_head or LMHead(find_layer(student, self.layer))
        self.lm_head.shape(hidden_shape)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.lm_head is None:
            raise ValueError(
                f"ChunkedCrossentropy has only the path '{self.layer}' of its layer. `Distiller.compile` looks it up; "
                f"for another model, pass the layer: `ChunkedCrossentropy(model.get_layer('{self.layer}'))`."
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
