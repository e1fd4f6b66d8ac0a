"""TensorBoard logs of a distillation."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data.batch import unpack
from keras_distill.distribution import workers
from keras_distill.training.base import BaseDistiller
from keras_distill.types import Structure, Tensor

_MAX_EXAMPLES = 6


class TensorBoard(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` with weights, temperatures, loss shares and soft targets.

    Keras writes the losses of terms and the metrics to `train` and `validation`. This callback also writes to
    `distillation`:

    ```
    weight/<term>        weight of the term, and weight/supervised_loss
    temperature/<term>   temperature of the term, if it has one
    part/<term>          share of the term in the total loss, weight times loss divided by the sum of all, 0 to 1;
                         and part/supervised_loss
    examples             the examples, once, if they are images
    dark knowledge       one image for each example: class probabilities of the teacher at temperature 1 and at the
                         temperature of the term, and those of the student at the latter
    ```

    All are written at the end of each epoch. With an integer `update_freq`, weights and temperatures are written at
    each optimizer step that is a multiple of it instead. Pass the callback to `fit`.

    Args:
        log_dir: Folder of the logs. Defaults to "logs".
        examples: Inputs in the form that `fit` takes, of which the first six are shown. For a cached teacher they must
            include the cached activations: rows of `load(x)` of the `TeacherCache`. Defaults to None, no images.
        labels: Class indices of the examples, integers, shape `[examples]`. Required with `examples`.
        classes: Names of the classes. Defaults to None, their indices.
        **kwargs: Other arguments of `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: If `examples` come without `labels`. At the start of training also if the model is not a
            distiller, and if there are examples, but no term compares logits of shape `[batch, classes]`.

    Example:
    >>> board = TensorBoard("logs", x[:6], y[:6], classes=["cat", "dog", "bird"])
    """

    def __init__(
        self,
        log_dir: str | os.PathLike = "logs",
        examples: Structure = None,
        labels: Tensor | None = None,
        classes: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(log_dir=log_dir, **kwargs)
        if examples is not None and labels is None:
            raise ValueError("`examples` require `labels`. Pass `TensorBoard(log_dir, examples, labels)`.")
        self.examples = self.labels = None
        if examples is not None:
            first = keras.tree.map_structure(lambda array: np.asarray(array)[:_MAX_EXAMPLES], (examples, labels))
            self.examples, self.labels = first
        self.classes = classes
        self._distillation_writer = None

    def set_model(self, model):
        super().set_model(model)
        if not isinstance(model, BaseDistiller):
            raise ValueError(
                "`keras_distill.callbacks.TensorBoard` requires a distiller. Use `keras.callbacks.TensorBoard` for "
                f"other models. Received: {model!r}"
            )
        compares = [term for term in model.terms if term.loss.logits and not term.loss.aligns]
        self._logit_term = next((term for term in compares if term.teacher_head is None), None)
        if self.examples is not None and self._logit_term is None:
            raise ValueError(
                "`examples` require a term that compares logits, such as `Term(KLDivergence())`. Add one to the "
                "distiller, or leave `examples` out."
            )

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if workers.is_chief(self.model.distribute_strategy):
            self._distillation_writer = tf.summary.create_file_writer(os.path.join(self.log_dir, "distillation"))
            if self.examples is not None:
                self._prepare_images()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if isinstance(self.update_freq, int) and self._distillation_writer is not None:
            step = int(self.model.optimizer.iterations)
            if step % self.update_freq == 0:
                self._write_scalars(self._weights_and_temperatures(logs), step)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self._distillation_writer is None:
            return
        scalars = self._weights_and_temperatures(logs)
        parts = self._parts(scalars, logs)
        self._write_scalars(parts if isinstance(self.update_freq, int) else parts | scalars, epoch)
        if self.examples is not None:
            with self._distillation_writer.as_default(step=epoch):
                tf.summary.image("dark knowledge", self._soft_target_images(), max_outputs=_MAX_EXAMPLES)
        self._distillation_writer.flush()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self._distillation_writer is not None:
            self._distillation_writer.close()

    def _weights_and_temperatures(self, logs):
        """Return `{tag: value}` at the current step of the optimizer."""
        step = self.model.optimizer.iterations
        weights = {_tag(name): self._weight(part, step, logs) for name, part in self._logged_parts(logs).items()}
        temperatures = {term.name: term.loss.temperature_at(step) for term in self.model.terms}
        temperatures = {name: value for name, value in temperatures.items() if value is not None}
        return _prefixed("weight", weights) | _prefixed("temperature", temperatures)

    @staticmethod
    def _weight(part, step, logs):
        """Return the logged mean of a weight with state, or the weight at the current step."""
        return logs[part.weight_name] if part.weight_name in logs else part.weight.value(step)

    def _parts(self, scalars, logs):
        """Return `{tag: share of the total loss}` of the supervised loss and of each term."""
        losses = {_tag(name): logs[name] for name in self._logged_parts(logs)}
        weighted = {name: abs(scalars.get(f"weight/{name}", 0.0) * float(loss)) for name, loss in losses.items()}
        total = sum(weighted.values())
        return _prefixed("part", {name: value / total for name, value in weighted.items()}) if total > 0 else {}

    def _logged_parts(self, logs):
        """Return the parts of the total loss that are logged: supervised losses only if `compile` got a loss."""
        return {name: part for name, part in self.model.parts.items() if name in logs}

    def _write_scalars(self, scalars, step):
        with self._distillation_writer.as_default(step=step):
            for tag, value in scalars.items():
                tf.summary.scalar(tag, value)

    def _prepare_images(self):
        """Check the shape of the logits, and write the examples."""
        _, teacher_logits = self._compared_logits()
        if teacher_logits.ndim != 2:
            raise ValueError(
                f"`examples` require logits of shape [batch, classes]. Leave `examples` out. Received: shape "
                f"{teacher_logits.shape} of the teacher's '{self._logit_term.teacher}'"
            )
        images = unpack((self.examples, self.labels), 0).inputs
        if not keras.tree.is_nested(images) and len(images.shape) == 4 and images.shape[-1] in (1, 3):
            with self._distillation_writer.as_default(step=0):
                low, high = np.min(images), np.max(images)
                scaled = (np.asarray(images) - low) / max(high - low, 1e-12)
                tf.summary.image("examples", scaled, max_outputs=_MAX_EXAMPLES)

    def _compared_logits(self):
        """Return the logits of student and teacher that the term compares, float32, shape `[examples, classes]`."""
        batch = unpack((self.examples, self.labels), 0)
        teacher = self.model.teacher_activations(batch)
        student = self.model.student_activations(batch, training=False)
        pair = self.model.compared_activations(self._logit_term, student, teacher)
        return tuple(np.asarray(logits, "float32")[..., : self._logit_term.words] for logits in pair)

    def _soft_target_images(self):
        """Draw the soft targets of this epoch, uint8, shape `[examples, height, width, 4]`."""
        # Imported here, since matplotlib is an optional dependency.
        from keras_distill.utils.drawing import FIRST
        from keras_distill.utils.soft_targets import bars, softened

        student_logits, teacher_logits = self._compared_logits()
        temperature = self._logit_term.loss.temperature_at(self.model.optimizer.iterations)
        temperature = 1.0 if temperature is None else float(temperature)
        classes = self.classes or [str(number) for number in range(student_logits.shape[-1])]
        colors = {"teacher": FIRST["teacher"], "student": FIRST["distilled"]}
        images = []
        for label, student, teacher in zip(self.labels, student_logits, teacher_logits):
            panels = [("teacher", value, softened(teacher, value)) for value in sorted({1.0, temperature})]
            panels.append(("student", temperature, softened(student, temperature)))
            images.append(tf.io.decode_png(bars(classes, int(label), panels, colors).png()))
        return tf.stack(images)


def _tag(log_name):
    """Return the name of a term, without the suffix of its loss; supervised losses keep theirs."""
    return log_name if log_name.endswith("supervised_loss") else log_name.removesuffix("_loss")


def _prefixed(prefix, values):
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}
