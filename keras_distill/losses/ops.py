"""Mathematics that several losses share."""

import math

from keras import ops

from keras_distill.batch import UNLABELLED


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


def one_hot_labels(labels, classes):
    """Labels as rows of zeros with a single one, and all zeros where there is no label.

    Args:
        labels: Class numbers of shape `[batch]` or `[batch, 1]`, or rows of shape `[batch, classes]`.
        classes: Their number.

    Returns:
        float32, shape `[batch, classes]`.
    """
    # Neither mark of a missing label, -1 and NaN, is 0 or more.
    if len(labels.shape) == 2 and labels.shape[-1] == classes:
        present = ops.all(labels >= 0, axis=-1, keepdims=True)
        return ops.where(present, ops.cast(labels, "float32"), 0.0)
    labels = ops.reshape(labels, (-1,))
    return ops.one_hot(ops.where(labels >= 0, ops.cast(labels, "int32"), UNLABELLED), classes)


def float32(*tensors):
    """Each tensor in float32: softened probabilities and squared distances need more than half precision has."""
    return tuple(ops.cast(tensor, "float32") for tensor in tensors)


def unit(vectors):
    """Vectors scaled to length 1; a zero vector stays zero and passes no gradient.

    Args:
        vectors: float32, shape `[..., dim]`.

    Returns:
        The same shape.
    """
    # The direction does not depend on the scale, so the largest entry may be taken as a constant. Dividing by it
    # first keeps the squares of attention maps and Gram matrices from overflowing or vanishing.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=-1, keepdims=True))
    zero = largest < 1e-30
    vectors = vectors / ops.where(zero, 1.0, largest)
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return ops.where(zero, 0.0, vectors * ops.rsqrt(ops.where(zero, 1.0, square)))


def relative_entropy(student, teacher, temperature=1.0):
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
    # Softmax does not see a shift; without it, logits of 1e4 over a low temperature would swamp their own differences.
    student, teacher = (x - ops.stop_gradient(ops.max(x, axis=-1, keepdims=True)) for x in (student, teacher))
    student_mass, teacher_mass = (
        ops.log(ops.sum(ops.exp(x / temperature), axis=-1, keepdims=True)) for x in (student, teacher)
    )
    q, p = ops.exp(student / temperature - student_mass), ops.exp(teacher / temperature - teacher_mass)
    # log p - log q from the logits themselves: what rounding is left is the same for every class.
    ratio = (teacher - student) / temperature - (teacher_mass - student_mass)

    # sum p * ratio = sum (p * ratio + q - p), as p and q each sum to 1. Now no term is negative, and an error common
    # to all ratios enters squared. A term is p * (exp(-ratio) - 1 + ratio), which cancels near 0; its series does not.
    near = ops.abs(ratio) < 0.5
    x = ops.where(near, -ratio, 0.0)
    series = 0.0
    for order in range(8, 1, -1):
        series = series * x + 1 / math.factorial(order)
    return ops.sum(ops.where(near, p * ops.square(x) * series, p * ratio + q - p), axis=-1)
