"""Top-k logits, with all other classes merged into one."""

import math

from keras import ops

from keras_distill.types import Tensor


def gather_top_k(logits: Tensor, classes: Tensor, temperature: float | Tensor = 1.0, tail: bool = True) -> Tensor:
    """Return the logits of the given classes, followed by one logit for all other classes together.

    ```
    tail = T * logsumexp(z_i / T)   over all classes i that are not in `classes`
    ```

    Args:
        logits: float32, shape `[batch, positions..., all classes]`.
        classes: Class indices, shape `[batch, positions..., k]`, each class at most once.
        temperature: Softmax temperature T, > 0, at which the last logit has the total probability of the other
            classes. Defaults to 1.0.
        tail: Whether to append the logit of the other classes. Defaults to True.

    Returns:
        Logits, shape `[batch, positions..., k + 1]`, or `[batch, positions..., k]` without the tail.
    """
    top = ops.take_along_axis(logits, classes, axis=-1)
    if not tail:
        return top
    # The other classes are summed directly. 1 minus the probability of the top classes would cancel all digits where
    # the top classes have nearly the whole probability.
    flat = ops.reshape(logits, (-1, logits.shape[-1]))
    entries = _entries(classes)
    taken = ops.scatter(entries, ops.ones(ops.shape(entries)[:1], dtype="float32"), ops.shape(flat))
    others = ops.reshape(ops.where(taken > 0, -1e30, flat), ops.shape(logits))
    bucket = temperature * ops.logsumexp(others / temperature, axis=-1, keepdims=True)
    return ops.concatenate([top, bucket], axis=-1)


def scatter_top_k(top: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Return logits of all classes from those of `gather_top_k` at temperature 1.

    The probability of the other classes is distributed evenly among them.

    Args:
        top: float32, shape `[batch, positions..., k + 1]`.
        classes: Class indices, shape `[batch, positions..., k]`.
        num_classes: Number of all classes, > k.

    Returns:
        Logits, shape `[batch, positions..., num_classes]`.
    """
    k = classes.shape[-1]
    others = top[..., k:] - math.log(num_classes - k)
    filled = ops.broadcast_to(others, (*ops.shape(classes)[:-1], num_classes))
    flat = ops.reshape(filled, (-1, num_classes))
    updates = ops.reshape(top[..., :k], (-1,))
    return ops.reshape(ops.scatter_update(flat, _entries(classes), updates), ops.shape(filled))


def _entries(classes: Tensor) -> Tensor:
    """Return row and column of class indices among logits of shape `[rows, classes]`, shape `[entries, 2]`."""
    columns = ops.cast(ops.reshape(classes, (-1,)), "int32")
    rows = ops.arange(ops.shape(columns)[0], dtype="int32") // classes.shape[-1]
    return ops.stack([rows, columns], axis=-1)
