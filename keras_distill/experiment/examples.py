"""Examples of one split."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import TeacherCache
from keras_distill.callbacks.backup import Backup
from keras_distill.types import Structure


class Examples:
    """Examples of a split. Abstract.

    Attributes:
        rows: Indices of the examples in the whole source, shape `[examples]`. An index may occur several times.
        digest: SHA-256 digest of the whole source, 32 hexadecimal digits.
        inputs_digest: The same for its inputs alone.
    """

    rows: np.ndarray
    digest: str
    inputs_digest: str

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> Any:
        """Return the labels, a structure of arrays; None without labels."""
        raise NotImplementedError

    def inputs(self, indices: Any) -> Structure:
        """Return the inputs of some examples as arrays.

        Args:
            indices: Indices into these examples.
        """
        raise NotImplementedError

    def select(self, indices: Any) -> "Examples":
        """Return some of the examples. Those of a stream come in increasing order of their rows.

        Args:
            indices: Indices into these examples; an index may occur several times.
        """
        raise NotImplementedError

    def with_labels(self, labels: Any) -> "Examples":
        """Return the same examples with other labels.

        Args:
            labels: Structure of arrays, one row per example; None for examples without labels.
        """
        raise NotImplementedError

    def augmented(self, augmentation: Callable[..., Any], size: int, seed: int) -> "Examples":
        """Return new examples, made from these.

        Args:
            augmentation: An `Augmentation`, or a function with the same arguments.
            size: Number of new examples per example.
            seed: Seed of the augmentation.

        Raises:
            ValueError: If the augmentation cannot be applied.
        """
        raise NotImplementedError

    def followed_by(self, others: "Examples") -> "Examples":
        """Return these examples, followed by others. Those without sample weights get the weight 1.

        Args:
            others: The others, with labels if these have labels.

        Raises:
            ValueError: If the others have another shape or dtype.
        """
        raise NotImplementedError

    def whole(self) -> Any:
        """Return the whole source in the form that `cache.label` takes."""
        raise NotImplementedError

    def training_batches(self, backup: Backup, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        """Return batches in an order that the `Backup` determines.

        Args:
            backup: The `Backup` of the training.
            batch_size: Examples per batch.
            stored: Cache of the teacher's outputs for `whole()`, to join. Defaults to None.
        """
        return backup.epochs(self.epoch(batch_size, stored))

    def epoch(self, batch_size: int, stored: TeacherCache | None = None) -> Callable[[tf.Tensor], tf.data.Dataset]:
        """Return a function of a seed that returns the shuffled batches of one epoch.

        Args:
            batch_size: As for `training_batches`.
            stored: As for `training_batches`. Defaults to None.
        """
        raise NotImplementedError

    def shuffled_batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        """Return batches in a fixed random order.

        Args:
            batch_size: As for `training_batches`.
            stored: As for `training_batches`. Defaults to None.
        """
        raise NotImplementedError

    def batches(self, batch_size: int, stored: TeacherCache | None = None) -> tf.data.Dataset:
        """Return batches in the order of the rows.

        Args:
            batch_size: As for `training_batches`.
            stored: As for `training_batches`. Defaults to None.
        """
        raise NotImplementedError

    def split(self, fraction: float) -> tuple["Examples", "Examples"]:
        """Split off a random fraction. The choice does not depend on any seed.

        Args:
            fraction: Part of the examples that is split off, in (0, 1).

        Returns:
            The remaining examples, and the fraction.

        Raises:
            ValueError: If one of both would be empty.
        """
        count = round(fraction * len(self))
        if not 0 < count < len(self):
            raise ValueError(
                f"There are {len(self)} examples, of which a fraction of {fraction:g} leaves none for one of the "
                "splits. Choose another fraction, or pass the splits."
            )
        chosen = np.zeros(len(self), bool)
        chosen[np.random.default_rng(0).permutation(len(self))[:count]] = True
        return self.select(np.flatnonzero(~chosen)), self.select(np.flatnonzero(chosen))


def digest_of(structure: Any) -> str:
    """Return a SHA-256 digest of a structure of arrays.

    Args:
        structure: The structure.
    """
    digest = hashlib.sha256()
    for array in keras.tree.flatten(structure):
        # An array of Python strings holds their addresses.
        array = array.astype(str) if array.dtype == object else array
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_alike(first: Any, second: Any, what: str) -> None:
    """Raise ValueError if two sets of examples differ in structure, shapes or dtypes.

    Args:
        first: Structure of arrays or specs of batches, the first axis of which is ignored.
        second: The other one.
        what: What they are, "inputs" or "labels".
    """

    def signature(structure):
        leaves = keras.tree.flatten(structure)
        dtypes = [getattr(leaf.dtype, "name", str(leaf.dtype)) for leaf in leaves]
        texts = ["text" if name.startswith(("str", "bytes", "object")) else name for name in dtypes]
        return [(tuple(leaf.shape[1:]), name) for leaf, name in zip(leaves, texts)]

    if signature(first) != signature(second):
        raise ValueError(
            f"The {what} of the transfer set must be like those of the training examples, {signature(first)}. "
            f"Received: {signature(second)}"
        )


def describe_non_finite(examples: Examples) -> str:
    """Return a sentence that names the first example with NaN or infinity in its inputs, or "".

    Args:
        examples: The examples.
    """
    start = 0
    for batch in examples.batches(256):
        for leaf in keras.tree.flatten(batch[0] if isinstance(batch, tuple) else batch):
            if leaf.dtype.is_floating:
                finite = tf.reduce_all(tf.math.is_finite(tf.reshape(leaf, (len(leaf), -1))), axis=1).numpy()
                if not finite.all():
                    row = int(examples.rows[start + int(np.argmin(finite))])
                    return f"Example {row} of the training data has NaN or infinity in its inputs."
        start += len(keras.tree.flatten(batch)[0])
    return ""
