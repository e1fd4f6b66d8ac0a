"""Comparisons of two distributions, shared by several losses of logits."""

from keras import ops

from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import kl_from_probabilities
from keras_distill.types import Tensor


def kl_to_mixture(p: Tensor, q: Tensor, ratio: Tensor, weight: float | Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence from a mixture, `KL(p || weight * p + (1 - weight) * q)`.

    Args:
        p: Probabilities, float32, shape `[..., classes]`.
        q: Probabilities, float32, shape `[..., classes]`.
        ratio: `log p - log q`, shape `[..., classes]`. See `softmax_pair`.
        weight: Weight of `p` in the mixture, > 0 and < 1; a tensor must broadcast to `[..., classes]`.

    Returns:
        Nats, shape `[...]`; at most `-log(weight)`.
    """
    mixture = weight * p + (1.0 - weight) * q
    return kl_from_probabilities(p, mixture, log_ratio_to_mixture(ratio, weight))


def log_ratio_to_mixture(ratio: Tensor, weight: float | Tensor) -> Tensor:
    """Compute `log p - log(weight * p + (1 - weight) * q)` from `ratio = log p - log q`.

    Args:
        ratio: `log p - log q`, shape `[..., classes]`.
        weight: Weight of `p` in the mixture, > 0 and < 1.

    Returns:
        Shape `[..., classes]`, accurate where the two probabilities are nearly equal.
    """
    # Two equivalent forms, each for the sign of `ratio` at which its exponential cannot overflow.
    negative = ops.minimum(ratio, 0.0)
    negative = negative - ops.log1p(weight * ops.expm1(negative))
    positive = ops.maximum(ratio, 0.0)
    change = (1.0 - weight) * ops.expm1(-positive)
    # log1p is accurate for nearly equal probabilities. Where its argument is near -1, it would lose a small weight.
    near = change > -0.5
    rest = weight + (1.0 - weight) * ops.exp(-positive)
    positive = -ops.where(near, ops.log1p(ops.where(near, change, 0.0)), ops.log(ops.where(near, 1.0, rest)))
    return ops.where(ratio > 0, positive, negative)


def sorted_distance(q: Tensor, p: Tensor) -> Tensor:
    """Compute the L1 distance of two sets of non-negative numbers, sorted, the smaller set padded with zeros.

    Args:
        q: Shape `[..., student classes]`.
        p: Shape `[..., teacher classes]`.

    Returns:
        Shape `[...]`.
    """
    # The gradient of `top_k` fails for an empty axis.
    q, p = (ops.top_k(x, x.shape[-1])[0] if x.shape[-1] else x for x in (q, p))
    common = min(q.shape[-1], p.shape[-1])
    distance = ops.sum(ops.abs(q[..., :common] - p[..., :common]), axis=-1)
    # One of the two rests is empty. The numbers are not negative.
    return distance + ops.sum(q[..., common:], axis=-1) + ops.sum(p[..., common:], axis=-1)


def acceptance_rate(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the overlap of two softened distributions: the rate at which a teacher accepts the student's tokens.

    ```
    sum_c min(p_t[c], p_s[c]),  p = softmax(logits / T)
    ```

    Args:
        student: Logits, shape `[batch, positions..., classes]`.
        teacher: Logits, same shape as `student`.
        temperature: Softmax temperature, >= 0. At 0, both choose their most probable token. Defaults to 1.

    Returns:
        Probability, shape `[batch, positions...]`.
    """
    if temperature == 0:
        return ops.cast(ops.argmax(student, axis=-1) == ops.argmax(teacher, axis=-1), "float32")
    q, p = (ops.softmax(logits / temperature, axis=-1) for logits in finite_logits(student, teacher))
    return ops.sum(ops.minimum(q, p), axis=-1)
