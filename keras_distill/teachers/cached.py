"""A teacher that has already spoken."""

import tensorflow as tf

from keras_distill.teachers.base import Teacher


class CachedTeacher(Teacher):
    """Activations that come with the batch, so that no teacher runs.

    ```python
    logits = teacher.predict(x)
    distiller = Distiller(student, CachedTeacher({"output": logits}), [Term(KullbackLeibler())])
    distiller.fit(with_activations(x, {"output": logits}), y)
    ```

    Args:
        activations: `{tap: array or spec}` of what will come; only shapes and dtypes are looked at.
    """

    def __init__(self, activations):
        self.stored = {tap: tf.TensorSpec((None, *value.shape[1:]), value.dtype) for tap, value in activations.items()}

    def connect(self, taps):
        missing = [tap for tap in taps if tap not in self.stored]
        if missing:
            raise ValueError(f"The activations {missing} were not stored. There: {list(self.stored)}.")
        self._taps = taps

    def activations(self, batch):
        if batch.cached is None:
            raise ValueError(
                "The inputs came without the teacher's activations. Pass `with_activations(x, activations)` as x."
            )
        return {tap: batch.cached[tap] for tap in self._taps}
