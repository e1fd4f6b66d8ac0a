"""Termination of a training whose loss or weights are not finite."""

from typing import Any

import keras
import numpy as np

from keras_distill.teachers.checks import non_finite_weights, shorten
from keras_distill.training.base import BaseDistiller
from keras_distill.utils.arguments import check_integer

_ADVICE = "Lower the learning rate, and look for the cause with `keras_distill.preflight.check`."


class NonFiniteError(RuntimeError):
    """Loss or weights of a training are NaN or infinite."""


class TerminateOnNonFinite(keras.callbacks.Callback):
    """Callback that raises `NonFiniteError` at the first loss or weight that is NaN or infinite.

    Unlike `keras.callbacks.TerminateOnNaN`, it names the parts of the loss that are not finite, and also checks the
    weights, after every epoch and after every `every` steps of an epoch. Pass it before `Backup`, so that no checkpoint
    with such weights is written.

    Args:
        every: Number of steps of an epoch between two checks of the weights, >= 1. Pass the `every` of `Backup`.
            Defaults to None, a check after each epoch only.

    Raises:
        ValueError: If `every` is not an integer >= 1 or None.

    Example:
    >>> distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> history = distiller.fit(x, y, verbose=0, callbacks=[TerminateOnNonFinite()])
    """

    def __init__(self, every: int | None = None):
        super().__init__()
        self.every = check_integer(every, "every", optional=True)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Some models keep masks of -infinity among their weights.
        self._ignored = set(non_finite_weights(self.model.weights))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step, per_execution, logs = batch + 1, self.model.steps_per_execution, logs or {}
        if not np.isfinite(logs.get("loss", 0.0)):
            raise NonFiniteError(f"The loss is {logs['loss']} {self._place(step)}.{self._parts(logs)} {_ADVICE}")
        if self.every is not None and step // self.every > (step - per_execution) // self.every:
            self._check_weights(self._place(step))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._check_weights(f"at the end of epoch {epoch + 1}")

    def _place(self, step):
        first = step - self.model.steps_per_execution + 1
        steps = f"step {step}" if first == step else f"one of the steps {first} to {step}"
        return f"in {steps} of epoch {self._epoch + 1}"

    def _parts(self, logs):
        """Return a sentence that names the parts of the loss that are not finite."""
        if not isinstance(self.model, BaseDistiller):
            return ""
        # The logs are means over the epoch so far, in which a part stays NaN or infinite.
        names = {name: part.title for name, part in self.model.parts.items() if name in logs}
        invalid = [f"{title} is {logs[name]}" for name, title in names.items() if not np.isfinite(logs[name])]
        if not invalid:
            return " All its parts are finite: a regularization loss or the weight of a term is not."
        text = ", ".join(invalid)
        return f" {text[0].upper()}{text[1:]}."

    def _check_weights(self, place):
        invalid = [path for path in non_finite_weights(self.model.weights) if path not in self._ignored]
        if invalid:
            raise NonFiniteError(f"The weights {shorten(invalid)} contain NaN or infinity {place}. {_ADVICE}")
