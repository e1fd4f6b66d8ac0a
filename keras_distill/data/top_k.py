"""Top-k logits: those of a few classes, with one value for all other classes."""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf
from keras import ops

from keras_distill.types import Tensor

# Finite logit of a class without probability.
_LOWEST = -1e30


@dataclasses.dataclass(frozen=True)
class TopKLogits:
    """Logits of k classes, and one logit that all other classes share.

    Stands for logits of all classes, at a fraction of their size. Not a tuple, since Keras would take its parts for
    several activations.

    Attributes:
        top: Logits of the k classes, float32, shape `[batch, positions..., k]`.
        others: Logit of each other class, float32, shape `[batch, positions..., 1]`.
        classes: Class indices, int32, shape `[batch, positions..., k]`, each class at most once.
        num_classes: Number of all classes, > k.
    """

    top: Tensor
    others: Tensor
    classes: Tensor
    num_classes: int

    @classmethod
    def from_bucket(cls, top: Tensor, classes: Tensor, num_classes: int) -> "TopKLogits":
        """Return the logits whose last one of `gather_top_k`, at temperature 1, is distributed evenly.

        Args:
            top: Any float dtype, shape `[batch, positions..., k + 1]`.
            classes: Integers, shape `[batch, positions..., k]`.
            num_classes: Number of all classes, > k.
        """
        top, k = ops.cast(top, "float32"), classes.shape[-1]
        others = top[..., k:] - math.log(num_classes - k)
        return cls(top[..., :k], others, ops.cast(classes, "int32"), num_classes)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the logits of all classes."""
        return (*self.classes.shape[:-1], self.num_classes)

    def map(self, function: Callable[[Tensor], Tensor]) -> "TopKLogits":
        """Return the logits with a function applied to `top` and `others`."""
        return dataclasses.replace(self, top=function(self.top), others=function(self.others))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """`top`, `others` and `classes`."""
        return self.top, self.others, self.classes

    def with_parts(self, top: Tensor, others: Tensor, classes: Tensor) -> "TopKLogits":
        """Return logits of other positions, whose `parts` have the same last axes."""
        return TopKLogits(top, others, classes, self.num_classes)

    def dense(self) -> Tensor:
        """Return the logits of all classes, float32, shape `[batch, positions..., num_classes]`."""
        filled = ops.broadcast_to(self.others, (*ops.shape(self.classes)[:-1], self.num_classes))
        return _scatter(filled, self.classes, self.top)

    def first(self, num_classes: int) -> "TopKLogits | Tensor":
        """Return the logits of the first classes alone, as `dense()[..., :num_classes]`.

        Args:
            num_classes: Number of classes, from 1 to `self.num_classes`. Logits of no more classes than those that are
                stored are returned in full, as a tensor.
        """
        k = self.classes.shape[-1]
        if num_classes <= k:
            return self.dense()[..., :num_classes]
        # Each class that is left out makes room for one that was not stored; two never share one.
        order = ops.argsort(self.classes, axis=-1)
        classes, top = (ops.take_along_axis(x, order, axis=-1) for x in (self.classes, self.top))
        unused = ops.flip(_unused_classes(classes, k), axis=-1)
        kept = classes < num_classes
        return TopKLogits(ops.where(kept, top, self.others), self.others, ops.where(kept, classes, unused), num_classes)

    def largest(self, k: int, temperature: float | Tensor = 1.0, tail: bool = True) -> tuple[Tensor, Tensor]:
        """Return the `k` largest logits and their classes, as `ops.top_k` and `gather_top_k` of all logits do.

        Args:
            k: Number of classes, from 1 to `num_classes`. It may be larger than the number of those that are stored:
                the first of the other classes follow.
            temperature: Softmax temperature T, > 0, of the last logit. Defaults to 1.0.
            tail: Whether to append the logit of the classes that are left out. Defaults to True.

        Returns:
            `(logits, classes)` of the shapes `[batch, positions..., k + 1]`, or `[batch, positions..., k]` without the
            tail, and `[batch, positions..., k]`.
        """
        unused = _unused_classes(self.classes, min(k, self.num_classes - self.classes.shape[-1]))
        classes = ops.concatenate([self.classes, unused], axis=-1)
        logits = ops.concatenate([self.top, ops.broadcast_to(self.others, ops.shape(unused))], axis=-1)
        # In the order of the classes, since `ops.top_k` takes the first of equal logits.
        order = ops.argsort(classes, axis=-1)
        logits, places = ops.top_k(ops.take_along_axis(logits, order, axis=-1), classes.shape[-1])
        classes = ops.take_along_axis(ops.take_along_axis(classes, order, axis=-1), places[..., :k], axis=-1)
        if not tail:
            return logits[..., :k], classes
        left_out = self.num_classes - logits.shape[-1]
        # Without any class left, a logit of probability 0.
        rest = self.others + temperature * math.log(left_out) if left_out else ops.full_like(self.others, _LOWEST)
        rest = ops.concatenate([logits[..., k:], rest], axis=-1)
        bucket = temperature * ops.logsumexp(rest / temperature, axis=-1, keepdims=True)
        return ops.concatenate([logits[..., :k], bucket], axis=-1), classes


def dense_logits(logits: Tensor | TopKLogits) -> Tensor:
    """Return the logits of all classes."""
    return logits.dense() if isinstance(logits, TopKLogits) else logits


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
    others = _scatter(logits, classes, ops.full_like(top, _LOWEST))
    bucket = temperature * ops.logsumexp(others / temperature, axis=-1, keepdims=True)
    return ops.concatenate([top, bucket], axis=-1)


def _scatter(logits, classes, values):
    """Return logits in which those of the given classes are replaced by values of the shape of `classes`."""
    columns = ops.cast(ops.reshape(classes, (-1,)), "int32")
    rows = ops.arange(ops.shape(columns)[0], dtype="int32") // classes.shape[-1]
    flat = ops.reshape(logits, (-1, logits.shape[-1]))
    entries = ops.stack([rows, columns], axis=-1)
    return ops.reshape(ops.scatter_update(flat, entries, ops.reshape(values, (-1,))), ops.shape(logits))


def _unused_classes(classes, count):
    """Return the first `count` classes, from 0, that are not in `classes`, shape `[batch, positions..., count]`."""
    classes = ops.sort(classes, axis=-1)
    # Number of unused classes below each class.
    below = classes - ops.arange(classes.shape[-1], dtype="int32")
    number = ops.broadcast_to(ops.arange(count, dtype="int32"), (*ops.shape(classes)[:-1], count))
    return number + tf.searchsorted(below, number, side="right")
