"""Teacher backed by precomputed activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.data.top_k import TopKLogits
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers.base import Teacher
from keras_distill.types import Structure, Tensor

_FUNCTIONS = {"softmax": keras.activations.softmax, "sigmoid": keras.activations.sigmoid}


class CachedTeacher(Teacher):
    """Teacher backed by precomputed activations, which come with each batch. No model runs.

    Pass the activations with the inputs, by `with_activations`. For activations that do not fit into memory, use
    `label` and `open_cache`.

    Args:
        activations: `{tap: array or tf.TensorSpec}` of the activations that will come with the batches; only their
            shapes and dtypes are kept. The logits of the k most probable classes are a dictionary of `top`, shape
            `[batch, ..., k + 1]` (their k logits, then one logit for the total probability of all other classes), and
            `classes`, integers of shape `[batch, ..., k]`.
        counts: `{tap: number of classes}` of the taps stored as their k most probable classes. The probability of the
            other classes is distributed evenly among them; losses such as `TopK` compute with the stored classes alone.
            Defaults to None: no such taps.
        functions: `{tap: "softmax" or "sigmoid"}` of the taps whose logits come with the batches in place of
            probabilities. Losses of logits compare what is stored; the teacher returns the probabilities. Defaults to
            None: activations are returned as they come.

    Raises:
        ValueError: If `counts` does not have exactly the taps that are stored as their most probable classes, for
            another function, and for an array of probabilities at "output".

    Example:
    >>> logits = teacher.predict(x, verbose=0)
    >>> cached = CachedTeacher({"output": logits})
    >>> distiller = Distiller(student=student, teacher=cached, terms=[Term(KLDivergence())])
    >>> inputs = with_activations(x, {"output": logits})  # for distiller.fit(inputs, y)
    """

    def __init__(
        self,
        activations: Mapping[str, Structure],
        counts: Mapping[str, int] | None = None,
        functions: Mapping[str, str] | None = None,
    ):
        self.stored = keras.tree.map_structure(
            lambda value: tf.TensorSpec((None, *value.shape[1:]), value.dtype), dict(activations)
        )
        self._counts = dict(counts or {})
        invalid = [tap for tap, stored in self.stored.items() if isinstance(stored, dict) != (tap in self._counts)]
        if invalid:
            raise ValueError(
                "`counts` must have the number of classes of each tap that is stored as its most probable classes, "
                f"such as counts={{'output': 1000}}, and no other tap. Check {invalid}. Received: counts={self._counts}"
            )

        self._functions = dict(functions or {})
        probabilities = [
            tap for tap, value in activations.items() if tap not in self._functions and _are_probabilities(tap, value)
        ]
        if probabilities:
            raise ValueError(
                f"The activations {probabilities} are probabilities: their rows are >= 0 and have the sum 1. Losses "
                "compare logits. Pass the logarithms, here and to `with_activations`: `np.log(probabilities)` are "
                "logits of the same softmax, -inf for a probability of 0."
            )
        unknown = set(self._functions.values()) - set(_FUNCTIONS)
        if unknown:
            raise ValueError(f"`functions` must be 'softmax' or 'sigmoid' for each tap. Received: {functions}")

    def connect(self, taps: Sequence[str]) -> None:
        missing = [tap for tap in taps if tap not in self.stored]
        if missing:
            taps = [*self.stored, *missing]
            raise ValueError(
                f"The activations {missing} were not stored. Stored: {list(self.stored)}. Run `label` into another "
                f"directory with taps={taps}, or let the terms compare what is stored."
            )
        self._taps = taps

    def activations(self, batch: Batch) -> "CachedActivations":
        if self._taps and batch.cached is None:
            raise ValueError(
                "The inputs came without the teacher's activations. Pass `with_activations(x, activations)` as x."
            )
        stored = {tap: batch.cached[tap] for tap in self._taps}
        top_k = {
            tap: TopKLogits.from_bucket(stored[tap]["top"], stored[tap]["classes"], count)
            for tap, count in self._counts.items()
            if tap in stored
        }
        return CachedActivations(stored | top_k, self._decoded)

    def _decoded(self, tap, stored):
        activation = stored.dense() if isinstance(stored, TopKLogits) else stored
        function = self._functions.get(tap)
        return activation if function is None else _FUNCTIONS[function](ops.cast(activation, "float32"))


class CachedActivations(Mapping):
    """Activations of a batch, `{tap: tensor}`, decoded when they are read.

    Logits of a large vocabulary that are stored as `TopKLogits` may never be needed in full.

    Args:
        stored: `{tap: tensor or TopKLogits}`.
        decode: Function from a tap and its entry of `stored` to the activation.
    """

    def __init__(self, stored: Mapping[str, Tensor | TopKLogits], decode: Callable[[str, Any], Tensor]):
        self._stored, self._decode = stored, decode

    def sparse(self) -> "CachedActivations":
        """Return the same activations, with `TopKLogits` in place of the logits of all classes."""
        return CachedActivations(
            self._stored, lambda tap, stored: stored if isinstance(stored, TopKLogits) else self._decode(tap, stored)
        )

    def __getitem__(self, tap: str) -> Tensor:
        return self._decode(tap, self._stored[tap])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _are_probabilities(tap, value):
    """Return whether an array of a model's outputs has rows of probabilities. Features may have such rows."""
    if tap.partition("[")[0] != OUTPUT or isinstance(value, (dict, tf.TensorSpec)) or len(value.shape) < 2:
        return False
    rows = np.asarray(value[:1024], "float64").reshape(-1, value.shape[-1])
    return rows.shape[-1] > 1 and len(rows) > 0 and bool(np.all(rows >= 0) and np.allclose(rows.sum(-1), 1, atol=1e-3))
