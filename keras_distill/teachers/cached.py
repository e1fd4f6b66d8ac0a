"""A teacher that has already spoken."""

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.top_k import scatter_top_k
from keras_distill.teachers.base import Teacher


class CachedTeacher(Teacher):
    """Activations that come with the batch, so that no teacher runs.

    ```python
    logits = teacher.predict(x)
    distiller = Distiller(student=student, teacher=CachedTeacher({"output": logits}), terms=[Term(KLDivergence())])
    distiller.fit(with_activations(x, {"output": logits}), y)
    ```

    Args:
        activations: `{tap: array or spec}` of what will come; only shapes and dtypes are looked at. Logits may come as
            their most probable classes: a dictionary of `top`, shape `[batch, ..., k + 1]`, their logits and, last, one
            for the sum of all others, and `classes`, integers of shape `[batch, ..., k]`.
        counts: `{tap: number of classes}` of those. The others' probability is shared out evenly.

    Raises:
        ValueError: For a dictionary without its number of classes.
    """

    def __init__(self, activations, counts=None):
        self.stored = keras.tree.map_structure(
            lambda value: tf.TensorSpec((None, *value.shape[1:]), value.dtype), dict(activations)
        )
        self._counts = dict(counts or {})
        wrong = [tap for tap, stored in self.stored.items() if isinstance(stored, dict) != (tap in self._counts)]
        if wrong:
            raise ValueError(f"`counts` must have the number of classes of the taps that come as their top: {wrong}.")

    def connect(self, taps):
        missing = [tap for tap in taps if tap not in self.stored]
        if missing:
            raise ValueError(f"The activations {missing} were not stored. There: {list(self.stored)}.")
        self._taps = taps

    def activations(self, batch):
        if self._taps and batch.cached is None:
            raise ValueError(
                "The inputs came without the teacher's activations. Pass `with_activations(x, activations)` as x."
            )
        return {tap: self._whole(tap, batch.cached[tap]) for tap in self._taps}

    def _whole(self, tap, stored):
        if tap not in self._counts:
            return stored
        return scatter_top_k(ops.cast(stored["top"], "float32"), stored["classes"], self._counts[tap])
