"""The most probable classes of logits, with all others as one."""

import math

from keras import ops


def gather_top_k(logits, classes, temperature=1.0, tail=True):
    """The logits of some classes and, last, one for all the others together.

    Args:
        logits: float32, shape `[batch, positions..., all classes]`.
        classes: Class numbers, shape `[batch, positions..., k]`, none of them twice.
        temperature: At which the last logit has the probability of the others.
        tail: Whether there is a last one.

    Returns:
        Shape `[batch, positions..., k + 1]`, or `k` without the last.
    """
    inside = ops.take_along_axis(logits, classes, axis=-1)
    if not tail:
        return inside
    # Summed, and not 1 less the others' sum: that leaves no digit where the k classes are nearly all there is.
    flat = ops.reshape(logits, (-1, logits.shape[-1]))
    where = _entries(classes)
    taken = ops.scatter(where, ops.ones(ops.shape(where)[:1], dtype="float32"), ops.shape(flat))
    outside = ops.reshape(ops.where(taken > 0, -1e30, flat), ops.shape(logits))
    bucket = temperature * ops.logsumexp(outside / temperature, axis=-1, keepdims=True)
    return ops.concatenate([inside, bucket], axis=-1)


def scatter_top_k(chosen, classes, count):
    """Logits of all classes from what `selected` gives at temperature 1: the last is shared out evenly.

    Args:
        chosen: float32, shape `[batch, positions..., k + 1]`.
        classes: Class numbers, shape `[batch, positions..., k]`.
        count: How many classes there are, more than `k`.

    Returns:
        Shape `[batch, positions..., count]`.
    """
    k = classes.shape[-1]
    inside, others = chosen[..., :k], chosen[..., k:] - math.log(count - k)
    everywhere = ops.broadcast_to(others, (*ops.shape(classes)[:-1], count))
    flat = ops.reshape(everywhere, (-1, count))
    return ops.reshape(ops.scatter_update(flat, _entries(classes), ops.reshape(inside, (-1,))), ops.shape(everywhere))


def _entries(classes):
    """Where class numbers stand among logits of shape `[rows, classes]`: row and column, shape `[entries, 2]`."""
    columns = ops.cast(ops.reshape(classes, (-1,)), "int32")
    rows = ops.arange(ops.shape(columns)[0], dtype="int32") // classes.shape[-1]
    return ops.stack([rows, columns], axis=-1)
