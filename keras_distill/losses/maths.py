"""Mathematics shared by several losses."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.labels import UNLABELLED
from keras_distill.losses.checks import Shape, shapes_match
from keras_distill.models.masking import expand_to_rank
from keras_distill.models.resampling import adaptive_average_pool, is_known, position_size
from keras_distill.types import Tensor


def squared_distances(features: Tensor) -> Tensor:
    """Compute the squared Euclidean distances between the rows of a batch.

    Args:
        features: Shape `[batch, dim]`.

    Returns:
        Shape `[batch, batch]`, exactly 0 on the diagonal.
    """
    # Differences instead of |a|^2 + |b|^2 - 2ab, which cancels in float32 where rows are nearly equal.
    difference = ops.expand_dims(features, 1) - ops.expand_dims(features, 0)
    return ops.sum(ops.square(difference), axis=-1)


def one_hot_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Convert labels to one-hot rows. The row of a missing label is all zeros.

    Args:
        labels: Class indices, shape `[batch, positions...]` or `[batch, positions..., 1]`, or rows of the shape of
            the logits. -1 or NaN for a missing label.
        logits: Shape `[batch, positions..., classes]`; only the shape is used.

    Returns:
        float32, shape `[batch, positions..., classes]`.
    """
    classes = logits.shape[-1]
    # `labels >= 0` is False for both marks of a missing label, -1 and NaN.
    if len(labels.shape) == len(logits.shape) and labels.shape[-1] == classes:
        present = ops.all(labels >= 0, axis=-1, keepdims=True)
        return ops.where(present, ops.cast(labels, "float32"), 0.0)
    labels = ops.reshape(labels, ops.shape(logits)[:-1])
    return ops.one_hot(ops.where(labels >= 0, ops.cast(labels, "int32"), UNLABELLED), classes)


def float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast tensors to float32, which softened probabilities and squared distances need."""
    return tuple(ops.cast(tensor, "float32") for tensor in tensors)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Scale vectors to length 1. A zero vector stays zero and passes no gradient.

    Args:
        vectors: float32, shape `[..., dim]`.

    Returns:
        Shape `[..., dim]`.
    """
    return _unit(vectors)[0]


def _unit(vectors):
    """Return `(unit vectors, is_zero)`, with `is_zero` of shape `[..., 1]`."""
    # The direction does not depend on the scale, so the largest entry may be treated as a constant. Dividing by it
    # first prevents overflow and underflow of the squares of attention maps and Gram matrices.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=-1, keepdims=True))
    is_zero = largest < 1e-30
    largest = ops.where(is_zero, 1.0, largest)

    @tf.custom_gradient
    def unit(vectors):
        scaled = vectors / largest
        square = ops.sum(ops.square(scaled), axis=-1, keepdims=True)
        # `where` on the reduced tensor saves one pass over the vectors.
        inverse = ops.where(is_zero, 0.0, ops.rsqrt(ops.where(is_zero, 1.0, square)))
        units = scaled * inverse

        def backward(upstream: Tensor) -> Tensor:
            # The derivative of the formulas above would take twice as many passes over the vectors.
            along = ops.sum(units * upstream, axis=-1, keepdims=True)
            return (upstream - units * along) * (inverse / largest)

        return units, backward

    return unit(vectors), is_zero


def gram_matrix(rows: Tensor) -> Tensor:
    """Compute the products of all pairs of rows.

    Args:
        rows: Shape `[batch, dim]`.

    Returns:
        Shape `[batch, batch]`.
    """

    @tf.custom_gradient
    def products(rows):
        def backward(upstream: Tensor) -> Tensor:
            # One product instead of one for each factor.
            return ops.matmul(upstream + ops.transpose(upstream), rows)

        return ops.matmul(rows, ops.transpose(rows)), backward

    return products(rows)


def random_directions(shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return random vectors of length 1, an initializer of queues of embeddings.

    Args:
        shape: Shape `(..., dim)`.
        dtype: Name of the dtype.
    """
    return unit_vectors(keras.random.normal(shape, dtype=dtype))


def enqueue(queue: Tensor, latest: Tensor) -> Tensor:
    """Return a queue with the latest rows first and without as many of the oldest.

    Args:
        queue: Shape `[size, dim]`.
        latest: Shape `[batch, dim]`. Of more than `size` rows, the first are taken.

    Returns:
        Shape `[size, dim]`.
    """
    return ops.reshape(ops.concatenate([latest, queue])[: queue.shape[0]], queue.shape)


def relative_temperatures(difficulty: Tensor, beta: float | Tensor, position_weight: Tensor | None = None) -> Tensor:
    """Compute temperature factors that are below 1 where the difficulty is above its mean.

    ```
    t = max(1 + beta * (mean(d) - d), 1/10)
    ```

    Args:
        difficulty: Shape `[batch, positions...]`. The mean is over the whole batch without padded positions.
        beta: Spread of the factors, >= 0.
        position_weight: Weight of each position, shape `[batch, positions...]`, 0 at padded positions. None weights
            all positions equally.

    Returns:
        Unitless, shape `[batch, positions...]`, without gradient.
    """
    weight = ops.ones_like(difficulty) if position_weight is None else position_weight
    weight = ops.broadcast_to(expand_to_rank(weight, len(difficulty.shape)), ops.shape(difficulty))
    mean = ops.divide_no_nan(ops.sum(weight * difficulty), ops.sum(weight))
    # Near 0, the gradient of a single example would outweigh the batch; below 0, it would change its sign.
    return ops.stop_gradient(ops.maximum(1.0 + beta * (mean - difficulty), 0.1))


def flatten_positions(features: Tensor, position_weight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Flatten batch and positions to the rows of one matrix.

    Args:
        features: Shape `[batch, positions..., channels]`.
        position_weight: Weight of each position, shape `[batch, positions...]`, or None.

    Returns:
        `(features, weight)` of shapes `[rows, channels]` and `[rows, 1]`. The weight is None if none was given.
    """
    shape = ops.shape(features)
    if position_weight is not None:
        weight = expand_to_rank(ops.cast(position_weight, "float32"), len(shape) - 1)
        position_weight = ops.reshape(ops.broadcast_to(weight, shape[:-1]), (-1, 1))
    return ops.reshape(features, (-1, shape[-1])), position_weight


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute 1 - cosine similarity: exactly 0 for equal directions, 1 if either vector is zero.

    Args:
        student: float32, shape `[..., dim]`.
        teacher: float32, shape `[..., dim]`.

    Returns:
        Unitless, shape `[...]`.
    """
    (student, student_is_zero), (teacher, teacher_is_zero) = _unit(student), _unit(teacher)
    # Half the squared distance of the unit vectors is the same number and stays accurate for small angles.
    distance = ops.sum(ops.square(student - teacher), axis=-1) / 2.0
    num_zeros = ops.cast(student_is_zero, "float32") + ops.cast(teacher_is_zero, "float32")
    return distance + ops.squeeze(num_zeros, axis=-1) / 2.0


def center(features: Tensor, axis: int, weight: Tensor | None = None) -> Tensor:
    """Subtract the mean along an axis. Entries of weight 0 become 0.

    Args:
        features: float32, any shape.
        axis: Axis of the mean.
        weight: Weights of the entries, of a shape that broadcasts to `features`. None weights all entries equally.

    Returns:
        The shape of `features`.
    """
    # Constant features must become exactly 0: callers divide by a standard deviation, which would amplify a rounding
    # error. Subtracting the maximum of equal numbers is exact.
    features = features - ops.stop_gradient(ops.max(features, axis=axis, keepdims=True))
    if weight is None:
        return features - ops.mean(features, axis=axis, keepdims=True)
    weight = ops.broadcast_to(weight, ops.shape(features))
    total = ops.sum(weight * features, axis=axis, keepdims=True)
    count = ops.sum(weight, axis=axis, keepdims=True)
    return ops.where(weight > 0, features - ops.divide_no_nan(total, count), 0.0)


def match_resolutions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool each position axis of two feature maps to the smaller of the two lengths.

    Args:
        student: Shape `[batch, positions..., channels]`.
        teacher: Shape `[batch, positions..., channels]`. A single axis of unknown length is not pooled.

    Returns:
        `(student, teacher)` of equal resolution.
    """
    sizes = list(zip(position_size(student), position_size(teacher)))
    for axis, lengths in enumerate(sizes, 1):
        # Texts of unknown length have the same tokens in both models.
        if len(sizes) == 1 and not is_known(lengths):
            continue
        bins = min(lengths) if is_known(lengths) else ops.minimum(*lengths)
        student = adaptive_average_pool(student, axis, bins)
        teacher = adaptive_average_pool(teacher, axis, bins)
    return student, teacher


def divide_by_deviation(features: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Divide centered features by `sqrt(variance) + epsilon`. Constant features stay 0 and pass no gradient."""
    # sqrt has an infinite gradient at 0, and 1/epsilon would be an enormous one.
    # NaN is not <= 0 and remains NaN.
    constant = variance <= 0
    scale = ops.sqrt(ops.where(constant, 1.0, variance)) + epsilon
    return ops.where(constant, 0.0, features / scale)


def resolutions_can_match(student_shape: Shape, teacher_shape: Shape) -> bool:
    """Return True if positions can be pooled to a common resolution: feature maps, or sequences of equal length."""
    if len(student_shape) == len(teacher_shape) > 3:
        return True
    return shapes_match(student_shape[1:-1], teacher_shape[1:-1])


def channels_first(features: Tensor) -> Tensor:
    """Reshape `[batch, positions..., channels]` to `[batch, channels, positions]`."""
    shape = ops.shape(features)
    return ops.swapaxes(ops.reshape(features, (shape[0], -1, shape[-1])), 1, 2)


def attention_scores_of(first: Tensor, second: Tensor) -> Tensor:
    """Compute scaled dot products between tokens for each head.

    Given queries and keys, these are the attention scores before the softmax.

    Args:
        first: Queries, shape `[batch, tokens, heads, dim]`.
        second: Keys, shape `[batch, tokens, heads, dim]`.

    Returns:
        float32, shape `[batch, heads, tokens of first, tokens of second]`, divided by `sqrt(dim)`.
    """
    first, second = float32(first, second)
    first, second = ops.swapaxes(first, 1, 2), ops.transpose(second, (0, 2, 3, 1))
    return ops.matmul(first / math.sqrt(first.shape[-1]), second)


def as_pair(activation: Any) -> Any:
    """Return the two activations of a loss that takes pairs. A single activation is paired with itself."""
    return activation if isinstance(activation, (tuple, list)) else (activation, activation)
