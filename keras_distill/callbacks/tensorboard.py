"""TensorBoard: what a distillation is made of, as it goes on."""

import os

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data.batch import unpack
from keras_distill.distribution import workers
from keras_distill.models.taps import Taps, select_activations
from keras_distill.schedules import value_at
from keras_distill.training.distiller import Distiller
from keras_distill.training.loss_weight import as_weight

_MOST_EXAMPLES = 6


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras' own, and beside it weights and temperatures over time, what each term adds, and dark knowledge.

    ```python
    board = TensorBoard("logs", x_test[:6], y_test[:6], classes=["T-shirt", "Trouser", ...])
    distiller.fit(x, y, validation_data=(x_test, y_test), epochs=10, callbacks=[board])
    ```

    Keras writes the losses of terms and the metrics into `train` and `validation`; this adds in `distillation`

    ```
    weight/<term>        its weight, and weight/supervised_loss
    temperature/<term>   its temperature, where it has one
    part/<term>          weight times loss over the sum of all of them, and part/supervised_loss; 0 to 1
    examples             the examples, once, if they are pictures
    dark knowledge       an image for each example: the teacher's class probabilities at temperature 1 and at that of
                         the term, and the student's at the same
    ```

    at the end of each epoch; the first two every so many batches if `update_freq` says so.

    Args:
        log_dir: As of Keras' own. Defaults to "logs".
        examples: Up to six inputs, as `fit` takes them, or None for no images. For a cached teacher with what it said
            of them: `stored.load(x)`, of which rows are taken.
        labels: Their class numbers.
        classes: Names of the classes. Defaults to their numbers.
        **kwargs: As of Keras' own.

    Raises:
        ValueError: When training starts, if the model is no `Distiller`, or if there are examples and no term compares
            logits of shape `[batch, classes]`.
    """

    def __init__(self, log_dir="logs", examples=None, labels=None, classes=None, **kwargs):
        super().__init__(log_dir=log_dir, **kwargs)
        if examples is not None and labels is None:
            raise ValueError("Pass the `labels` of the examples, too.")
        self.examples = self.labels = None
        if examples is not None:
            shown = (examples, labels)
            self.examples, self.labels = keras.tree.map_structure(lambda x: np.asarray(x)[:_MOST_EXAMPLES], shown)
        self.classes = classes
        self._writer = None

    def set_model(self, model):
        super().set_model(model)
        if not isinstance(model, Distiller):
            raise ValueError(f"This TensorBoard is for a Distiller. Received: {model!r}. Use Keras' own.")
        # A term of logits, whose taps are those of the images.
        self._term = next((term for term in model.terms if term.loss.logits), None)
        if self.examples is not None and self._term is None:
            raise ValueError("No term compares logits, so there is nothing to show of `examples`. Leave them out.")

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if workers.is_chief(tf.distribute.get_strategy()):
            self._writer = tf.summary.create_file_writer(os.path.join(self.log_dir, "distillation"))
            if self.examples is not None:
                self._begin_images()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if isinstance(self.update_freq, int) and self._writer is not None:
            step = int(self.model.optimizer.iterations)
            if step % self.update_freq == 0:
                self._write(self._numbers(logs), step)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self._writer is None:
            return
        numbers = self._numbers(logs)
        self._write(self._parts(numbers, logs) | ({} if isinstance(self.update_freq, int) else numbers), epoch)
        if self.examples is not None:
            with self._writer.as_default(step=epoch):
                tf.summary.image("dark knowledge", self._drawn(), max_outputs=_MOST_EXAMPLES)
        self._writer.flush()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self._writer is not None:
            self._writer.close()

    def _numbers(self, logs):
        """`{name: number}` of weights and temperatures at the step that the optimizer has come to."""
        step = self.model.optimizer.iterations
        weights = {"supervised_loss": value_at(self.model.supervised_weight, step)} if self.model.loss else {}
        for term in self.model.terms:
            weights[term.name] = as_weight(term.weight).value(step)
        found = {term.name: term.loss.temperature_at(step) for term in self.model.terms}
        temperatures = {name: value for name, value in found.items() if value is not None}
        return _prefixed("weight", weights) | _prefixed("temperature", temperatures)

    def _parts(self, numbers, logs):
        """`{name: number}` of what each term adds to the loss, of the sum of all."""
        losses = {"supervised_loss": logs.get("supervised_loss", 0.0)}
        losses |= {term.name: logs[f"{term.name}_loss"] for term in self.model.terms}
        added = {name: abs(numbers.get(f"weight/{name}", 0.0) * float(loss)) for name, loss in losses.items()}
        total = sum(added.values())
        return _prefixed("part", {name: value / total for name, value in added.items()}) if total > 0 else {}

    def _write(self, numbers, step):
        with self._writer.as_default(step=step):
            for name, value in numbers.items():
                tf.summary.scalar(name, value)

    def _begin_images(self):
        """Asks the teacher, which says the same in every epoch, and shows the examples."""
        batch = unpack((self.examples, self.labels), 0)
        self._teacher_logits = np.asarray(
            select_activations(self.model.teacher.activations(batch), self._term.teacher), "float32"
        )
        if self._teacher_logits.ndim != 2:
            raise ValueError(
                f"Images are drawn of logits of shape [batch, classes]. Teacher '{self._term.teacher}' has "
                f"{self._teacher_logits.shape}. Leave `examples` out."
            )
        self._student = Taps(self.model.student, [self._term.student])
        self._inputs = batch.inputs
        pictures = batch.inputs
        if not keras.tree.is_nested(pictures) and len(pictures.shape) == 4 and pictures.shape[-1] in (1, 3):
            with self._writer.as_default(step=0):
                low, high = np.min(pictures), np.max(pictures)
                shown = (np.asarray(pictures) - low) / max(high - low, 1e-12)
                tf.summary.image("examples", shown, max_outputs=_MOST_EXAMPLES)

    def _drawn(self):
        """The images of an epoch, uint8, shape `[examples, height, width, 4]`."""
        from keras_distill.report.knowledge import bars, softened
        from keras_distill.utils.drawing import FIRST

        student = np.asarray(
            select_activations(self._student(self._inputs, training=False), self._term.student), "float32"
        )
        temperature = self._term.loss.temperature_at(self.model.optimizer.iterations)
        temperature = 1.0 if temperature is None else float(temperature)
        classes = self.classes or [str(number) for number in range(student.shape[-1])]
        colors = {"teacher": FIRST["teacher"], "student": FIRST["distilled"]}
        images = []
        for label, ours, theirs in zip(self.labels, student, self._teacher_logits):
            panels = [("teacher", each, softened(theirs, each)) for each in sorted({1.0, temperature})]
            panels.append(("student", temperature, softened(ours, temperature)))
            images.append(tf.io.decode_png(bars(classes, int(label), panels, colors).png()))
        return tf.stack(images)


def _prefixed(prefix, numbers):
    return {f"{prefix}/{name}": float(value) for name, value in numbers.items()}
