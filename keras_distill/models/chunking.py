"""Functions of tokens, computed in chunks to save memory."""

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from keras_distill.types import Tensor

# Relative difference up to which two weights of a row count as equal: a few roundings of float32.
_ROUNDING = 1e-6


def in_chunks(
    function: Callable[..., Tensor],
    rows: Tensor,
    weights: list[Tensor],
    others: tuple[Tensor, ...],
    tokens: int,
    scale: Tensor | None = None,
) -> Tensor:
    """Compute a function of rows chunk by chunk, in the forward and in the backward pass.

    The backward pass recomputes each chunk, since its logits were discarded. Part of this cost is recovered: a chunk
    fits into the processor's cache, the logits of all rows do not. With `scale` the gradient is computed beside the
    values, and nothing is recomputed.

    Args:
        function: Called as `function(rows, weights, others)` with the rows of a chunk. Returns shape `[chunk]`. Each
            row must be computed independently.
        rows: Shape `[rows, ...]`. Receives a gradient.
        weights: List of tensors. Receive gradients.
        others: Tuple of tensors of shape `[rows, ...]`, without gradient.
        tokens: Maximum number of rows per chunk, >= 1, an integer or a tensor. All chunks have the same
            size; the last is padded with zeros.
        scale: Factors of the values in the total loss, but for a factor common to all, float32 of shape `[rows]`, if
            they are known before. The gradient of this weighted sum is then computed beside the values, and the
            backward pass multiplies it by the common factor; should the factors be others, it recomputes each chunk.
            Defaults to None: the gradient is computed in the backward pass.

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
    # The padding of the last chunk has the factor 0.
    scale = None if scale is None else ops.stop_gradient(split(scale))

    @tf.custom_gradient
    def run(rows, *weights):
        inputs = function, rows, weights, others
        dtypes = [rows.dtype, *(weight.dtype for weight in weights)]
        zeros = [ops.zeros_like(rows), *map(_initial_sum, weights)]

        def cast(gradients):
            return [ops.cast(gradient, dtype) for gradient, dtype in zip(gradients, dtypes)]

        if scale is None:
            return _values(*inputs), lambda upstream: cast(_gradients(*inputs, upstream, zeros, num_chunks)[1])
        values, known = _gradients(*inputs, scale, zeros, num_chunks)

        def backward(upstream):
            factor, proportional = _common_factor(upstream, scale)
            factor = ops.where(proportional, factor, 0.0)
            start = [ops.cast(factor, part.dtype) * part for part in known]
            # A loop that may have no iterations, because `tf.cond` takes the memory of another gradient.
            return cast(_gradients(*inputs, upstream, start, ops.where(proportional, 0, num_chunks))[1])

        return values.stack(), backward

    return ops.reshape(run(split(rows), *weights), (-1,))[:num_rows]


def _values(function, rows, weights, others):
    return tf.map_fn(
        lambda chunk: function(chunk[0], weights, chunk[1]),
        (rows, others),
        fn_output_signature=tf.TensorSpec(rows.shape[1:2], "float32"),
        # More parallel iterations would hold the logits of several chunks in memory.
        parallel_iterations=1,
    )


def _gradients(function, rows, weights, others, upstream, start, iterations):
    """Return `(values, gradients)` of the first chunks: an array, and `start` plus the gradients times `upstream`."""
    num_chunks = ops.shape(rows)[0]

    def add_chunk(index, values, row_gradients, sums):
        chunk, chunk_others = rows[index], tuple(tensor[index] for tensor in others)
        with tf.GradientTape() as tape:
            tape.watch([chunk, *weights])
            of_chunk = function(chunk, weights, chunk_others)
        gradient, *gradients = tape.gradient(
            of_chunk, [chunk, *weights], upstream[index], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        sums = tuple(total + ops.cast(part, total.dtype) for total, part in zip(sums, gradients))
        return index + 1, values.write(index, of_chunk), row_gradients.write(index, gradient), sums

    row_gradients = tf.TensorArray(rows.dtype, num_chunks, element_shape=rows.shape[1:], clear_after_read=False)
    # Sums in float32 at least: half precision would lose the gradients of late chunks.
    state = (
        tf.constant(0),
        tf.TensorArray("float32", num_chunks, element_shape=rows.shape[1:2]),
        row_gradients.unstack(start[0]),
        tuple(start[1:]),
    )
    _, values, row_gradients, sums = tf.while_loop(
        lambda index, *_: index < iterations,
        add_chunk,
        state,
        parallel_iterations=1,
        maximum_iterations=num_chunks,
    )
    return values, [row_gradients.stack(), *sums]


def _common_factor(upstream, scale):
    """Return the factor between the weights of the rows and `scale`, and whether all rows have it."""
    # The extremes of no rows are infinite; 0 bounds them. All weights of the rows have the same sign.
    extremes = ops.maximum(tf.reduce_max(upstream), 0.0) + ops.minimum(tf.reduce_min(upstream), 0.0)
    factor = ops.divide_no_nan(extremes, ops.maximum(tf.reduce_max(scale), 0.0))
    expected = factor * scale
    # NaN is never close.
    return factor, ops.all(ops.abs(upstream - expected) <= _ROUNDING * ops.abs(expected))


def _initial_sum(weight):
    """Return zeros of the shape of a weight."""
    # A tensor of `zeros` is a constant of the graph, which stays in memory beside the sums.
    return tf.raw_ops.Empty(shape=tf.shape(weight), dtype=keras.backend.result_type(weight.dtype, "float32"), init=True)
