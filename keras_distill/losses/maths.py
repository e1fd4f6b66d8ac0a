"""Mathematics that several losses share."""

import math

import numpy as np
from keras import ops

from keras_distill.data.labels import UNLABELLED
from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.checks import check_classes
from keras_distill.models.masking import expand_to_rank, mean_over_positions


def squared_distances(features):
    """Squared Euclidean distances between the rows of a batch.

    Args:
        features: Shape `[batch, dim]`.

    Returns:
        Shape `[batch, batch]`, exactly 0 on the diagonal.
    """
    # Differences, not |a|^2 + |b|^2 - 2ab: that cancels in float32 where rows are alike.
    difference = ops.expand_dims(features, 1) - ops.expand_dims(features, 0)
    return ops.sum(ops.square(difference), axis=-1)


def one_hot_labels(labels, logits):
    """Labels as rows of zeros with a single one, and all zeros where there is no label.

    Args:
        labels: Class numbers of shape `[batch, positions...]` or `[batch, positions..., 1]`, or rows of the shape of
            the logits.
        logits: Shape `[batch, positions..., classes]`; only their shape is looked at.

    Returns:
        float32, of the shape of the logits.
    """
    classes = logits.shape[-1]
    # Neither mark of a missing label, -1 and NaN, is 0 or more.
    if len(labels.shape) == len(logits.shape) and labels.shape[-1] == classes:
        present = ops.all(labels >= 0, axis=-1, keepdims=True)
        return ops.where(present, ops.cast(labels, "float32"), 0.0)
    labels = ops.reshape(labels, ops.shape(logits)[:-1])
    return ops.one_hot(ops.where(labels >= 0, ops.cast(labels, "int32"), UNLABELLED), classes)


def float32(*tensors):
    """Each tensor in float32: softened probabilities and squared distances need more than half precision has."""
    return tuple(ops.cast(tensor, "float32") for tensor in tensors)


def unit_vectors(vectors):
    """Vectors scaled to length 1; a zero vector stays zero and passes no gradient.

    Args:
        vectors: float32, shape `[..., dim]`.

    Returns:
        The same shape.
    """
    return _unit(vectors)[0]


def _unit(vectors):
    """Vectors scaled to length 1, and which of them are zero, shape `[..., 1]`."""
    # The direction does not depend on the scale, so the largest entry may be taken as a constant. Dividing by it
    # first keeps the squares of attention maps and Gram matrices from overflowing or vanishing.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=-1, keepdims=True))
    zero = largest < 1e-30
    vectors = vectors / ops.where(zero, 1.0, largest)
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    # Chosen among numbers of one axis less than the vectors, which takes a pass over these less.
    return vectors * ops.where(zero, 0.0, ops.rsqrt(ops.where(zero, 1.0, square))), zero


def wrap(wrapper, loss):
    """Puts a loss of logits into another one; None stands for a divergence, see `compare_logits`."""
    if loss is not None and not (isinstance(loss, DistillationLoss) and loss.logits):
        name = type(wrapper).__name__
        raise ValueError(f"{name} takes a loss of logits, such as DecoupledKD(). Received: {loss!r}")
    wrapper.loss = loss
    if loss is not None:
        wrapper.rank, wrapper.needs_labels = loss.rank, loss.needs_labels
        wrapper.relational = wrapper.relational or loss.relational


def build_wrapped(wrapper, student_shape, teacher_shape):
    """Builds the loss in a wrapper; refuses logits of a single class."""
    check_classes(type(wrapper).__name__, student_shape, teacher_shape)
    # One that comes out of a file has its weights already.
    if wrapper.loss is not None and not wrapper.loss.built:
        wrapper.loss.build(student_shape, teacher_shape)


def compare_logits(loss, student, teacher, batch, temperature):
    """What a wrapped loss says of logits; if None was given, what a KLDivergence of that temperature would say."""
    if loss is not None:
        return loss.compare(student, teacher, batch)
    values = temperature**2 * kl_from_logits(student, teacher, temperature)
    return mean_over_positions(values, batch.position_weight)


def relative_temperatures(difficulty, beta, position_weight=None):
    """Temperatures that are low where a difficulty is above its mean, as multiples of a loss's own.

    ```
    t = max(1 + beta * (mean(d) - d), 1/10)
    ```

    Args:
        difficulty: Shape `[batch, positions...]`; its mean is over the whole batch, padded positions left out.
        beta: 0 or more.
        position_weight: As in a `Batch`.

    Returns:
        The same shape, without gradient.
    """
    weight = ops.ones_like(difficulty) if position_weight is None else position_weight
    weight = ops.broadcast_to(expand_to_rank(weight, len(difficulty.shape)), ops.shape(difficulty))
    mean = ops.divide_no_nan(ops.sum(weight * difficulty), ops.sum(weight))
    # A temperature near 0 makes a single example's gradient outweigh the batch, one below 0 turns it round.
    return ops.stop_gradient(ops.maximum(1.0 + beta * (mean - difficulty), 0.1))


def flatten_positions(features, position_weight=None):
    """All positions of all examples as the rows of one matrix.

    Args:
        features: Shape `[batch, positions..., channels]`.
        position_weight: As in a `Batch`.

    Returns:
        `(features, weight)` of shapes `[rows, channels]` and `[rows, 1]`; the weight is None if none was given.
    """
    shape = ops.shape(features)
    if position_weight is not None:
        weight = expand_to_rank(ops.cast(position_weight, "float32"), len(shape) - 1)
        position_weight = ops.reshape(ops.broadcast_to(weight, shape[:-1]), (-1, 1))
    return ops.reshape(features, (-1, shape[-1])), position_weight


def cosine_distance(student, teacher):
    """1 less the cosine of the angle between two vectors: exactly 0 where they agree, 1 where either is zero.

    Args:
        student: float32, shape `[..., dim]`.
        teacher: float32, shape `[..., dim]`.

    Returns:
        Shape `[...]`.
    """
    (student, no_student), (teacher, no_teacher) = _unit(student), _unit(teacher)
    # Half the squared distance of the ends is the same number, and keeps its digits where the angle is small.
    distance = ops.sum(ops.square(student - teacher), axis=-1) / 2.0
    zeros = ops.cast(no_student, "float32") + ops.cast(no_teacher, "float32")
    return distance + ops.squeeze(zeros, axis=-1) / 2.0


def center(features, axis, weight=None):
    """The features less their mean along an axis, and 0 where their weight is 0.

    Args:
        features: float32.
        axis: An integer.
        weight: Of a shape that broadcasts; None counts all alike.
    """
    # Equal numbers must become exactly 0: what rounding leaves of them would be scaled up by those who divide by a
    # standard deviation. Hence a shift that rounds nothing first.
    features = features - ops.stop_gradient(ops.max(features, axis=axis, keepdims=True))
    if weight is None:
        return features - ops.mean(features, axis=axis, keepdims=True)
    weight = ops.broadcast_to(weight, ops.shape(features))
    total, count = (ops.sum(x, axis=axis, keepdims=True) for x in (weight * features, weight))
    return ops.where(weight > 0, features - ops.divide_no_nan(total, count), 0.0)


def match_resolutions(student, teacher):
    """Features whose positions are averaged down, axis by axis, to the smaller of two sizes.

    Args:
        student: Shape `[batch, positions..., channels]`.
        teacher: Of the same rank. Axes of unknown length are left alone.
    """
    for axis in range(1, len(student.shape) - 1):
        lengths = student.shape[axis], teacher.shape[axis]
        if None not in lengths:
            student, teacher = (adaptive_average_pool(features, axis, min(lengths)) for features in (student, teacher))
    return student, teacher


def divide_by_deviation(features, variance, epsilon):
    """Centred features over their standard deviation plus epsilon; constant ones stay 0 and pass no gradient."""
    # sqrt has no gradient at 0, and 1/epsilon would be an enormous one.
    varies = variance > 0
    scale = ops.sqrt(ops.where(varies, variance, 1.0)) + epsilon
    return ops.where(varies, features / scale, 0.0)


def resolutions_can_match(student_shape, teacher_shape):
    """Whether positions can be averaged down to a common size: those of maps; sequences must be equally long."""
    if len(student_shape) == len(teacher_shape) > 3:
        return True
    return shapes_match(student_shape[1:-1], teacher_shape[1:-1])


def adaptive_average_pool(features, axis, bins):
    """Adaptive average pooling of one axis: bin i averages positions floor(i*n/bins) to ceil((i+1)*n/bins)."""
    length = features.shape[axis]
    if length == bins:
        return features
    # A product with a constant matrix, since XLA has no adaptive pooling and bins may overlap.
    matrix = np.zeros((length, bins), "float32")
    for i in range(bins):
        start, stop = i * length // bins, -(-(i + 1) * length // bins)
        matrix[start:stop, i] = 1 / (stop - start)
    return ops.moveaxis(ops.tensordot(features, matrix, axes=[[axis], [0]]), -1, axis)


def channels_first(features):
    """The activations of each channel: `[batch, channels, positions]` of `[batch, positions..., channels]`."""
    shape = ops.shape(features)
    return ops.swapaxes(ops.reshape(features, (shape[0], -1, shape[-1])), 1, 2)


def kl_from_logits(student, teacher, temperature=1.0):
    """Kullback-Leibler divergence of two softened distributions, `KL(teacher || student)`.

    Accurate where the two are nearly alike: at a temperature of 1000 the divergence is about 1e-6, what is left of
    terms that are a million times larger, and the caller multiplies it by the temperature squared.

    Args:
        student: Logits, float32, shape `[..., classes]`.
        teacher: Logits, float32, shape `[..., classes]`.
        temperature: Divides the logits.

    Returns:
        Nats, shape `[...]`.
    """
    student, teacher, ratio = softmax_pair(student, teacher, temperature)
    return kl_from_probabilities(teacher, student, ratio)


def softmax_pair(student, teacher, temperature=1.0):
    """Two softened distributions and the log of their ratio.

    Args:
        student: Logits, float32, shape `[..., classes]`.
        teacher: Logits, float32, shape `[..., classes]`.
        temperature: Divides the logits.

    Returns:
        `(q, p, log p - log q)`, with `q` of the student and `p` of the teacher, each of shape `[..., classes]`.
    """
    # Softmax does not see a shift; without it, logits of 1e4 over a low temperature would swamp their own differences.
    student, teacher = (x - ops.stop_gradient(ops.max(x, axis=-1, keepdims=True)) for x in (student, teacher))
    student_mass, teacher_mass = (
        ops.log(ops.sum(ops.exp(x / temperature), axis=-1, keepdims=True)) for x in (student, teacher)
    )
    q, p = ops.exp(student / temperature - student_mass), ops.exp(teacher / temperature - teacher_mass)
    # log p - log q from the logits themselves: what rounding is left is the same for every class.
    return q, p, (teacher - student) / temperature - (teacher_mass - student_mass)


def probability_difference(q, p, ratio):
    """`p - q`, of what `softened` returns, with all its digits where the two are nearly alike."""
    near = ops.abs(ratio) < 0.5
    return ops.where(near, q * ops.expm1(ops.where(near, ratio, 0.0)), p - q)


def kl_from_probabilities(p, q, ratio):
    """`KL(p || q)` in nats, from two distributions and `ratio = log p - log q`, over the last axis."""
    # sum p * ratio = sum (p * ratio + q - p), as p and q each sum to 1. Now no term is negative, and an error common
    # to all ratios enters squared. A term is p * (exp(-ratio) - 1 + ratio), which cancels near 0; its series does not.
    near = ops.abs(ratio) < 0.5
    x = ops.where(near, -ratio, 0.0)
    series = 0.0
    for order in range(8, 1, -1):
        series = series * x + 1 / math.factorial(order)
    return ops.sum(ops.where(near, p * ops.square(x) * series, p * ratio + q - p), axis=-1)


def attention_scores_of(first, second):
    """Products between tokens, for each head: attention scores, where the two are queries and keys.

    Args:
        first: Shape `[batch, tokens, heads, dim]`.
        second: The same shape.

    Returns:
        float32, shape `[batch, heads, tokens, tokens]`, over the root of `dim`; the first's tokens come first.
    """
    first, second = float32(first, second)
    first, second = ops.swapaxes(first, 1, 2), ops.transpose(second, (0, 2, 3, 1))
    return ops.matmul(first / math.sqrt(first.shape[-1]), second)


def as_pair(activation):
    """The two activations of a loss that takes pairs; a single one is paired with itself."""
    return activation if isinstance(activation, (tuple, list)) else (activation, activation)


def as_shape_pair(shape):
    """Likewise, of shapes."""
    return shape if isinstance(shape[0], (tuple, list)) else (shape, shape)
