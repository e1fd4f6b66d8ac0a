"""Functions of tokens, computed in chunks to save memory."""

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from keras_distill.types import Tensor


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
        tokens: Maximum number of rows per chunk, >= 1, an integer or a tensor. All chunks have the same
            size; the last is padded with zeros.

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
                # Summed in float32 at least: half precision would lose the gradients of late chunks.
                tuple(ops.zeros(ops.shape(weight), _sum_dtype(weight)) for weight in weights),
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


def _sum_dtype(weight):
    return keras.backend.result_type(weight.dtype, "float32")
