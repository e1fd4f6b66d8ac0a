"""Base class of metrics that compare student and teacher activations."""

from typing import Any

import keras

from keras_distill.models.lm_head import logits_layer
from keras_distill.models.specs import Spec, check_activation
from keras_distill.models.taps import OUTPUT
from keras_distill.types import Tap


class DistillationMetric(keras.metrics.Metric):
    """Metric that compares a student activation with a teacher activation. Abstract.

    Pass it to the `metrics` of a `Distiller`. It then reuses the activations of the training or test step, without
    another forward pass. It does not use labels, so unlabeled examples count. Padded positions do not count. Sample
    weights are ignored unless the metric is one of the `weighted_metrics`. Under `tf.distribute` its value covers all
    replicas.

    Outside of a distiller, call `metric.update_state(student, teacher)` with arrays.

    A subclass implements `update_state(student, teacher, sample_weight=None)` and `result()`.

    Args:
        student: Tap of the student, in the syntax of `Taps`. Defaults to the student's output.
        teacher: Tap of the teacher. Defaults to the teacher's output.
        mask: Name of the model input that is 1 at valid positions and 0 at padded ones, shape
            `[batch, positions...]`; None uses the Keras masks of the activations. Defaults to None.
        name: Name in the logs. Defaults to a name made of the class name.
        dtype: Dtype of the state. Defaults to "float32", whatever the precision of the models.

    Attributes:
        logits: Whether both activations must be logits of the same classes.
        relational: Whether the metric compares the examples of a batch with one another. It then receives the examples
            of all replicas, and every replica adds the same value to its state.

    Example:

    >>> distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    >>> distiller.compile("adam", metrics=[Agreement(), CKA("block_2", "block_4")])
    >>> sorted(distiller.evaluate(x, verbose=0, return_dict=True))
    ['agreement', 'cka', 'kl_divergence_loss', 'loss']
    """

    logits = False
    relational = False

    def __init__(
        self,
        student: Tap = OUTPUT,
        teacher: Tap = OUTPUT,
        mask: str | None = None,
        name: str | None = None,
        dtype: Any = None,
    ):
        # float32 like the losses, even under a mixed-precision policy.
        super().__init__(name=name, dtype=dtype or "float32")
        self.student = student
        self.teacher = teacher
        self.mask = mask

    def connect(self, student: keras.Model, teacher: Any) -> None:
        """Look up layers whose weights the metric reads. Called before `check`. The default looks up none.

        Args:
            student: Student model.
            teacher: `Teacher` of the distiller.

        Raises:
            ValueError: If the metric compares logits, and one of the models is a `HiddenStates` model.
        """
        sides = (self.student, logits_layer(student)), (self.teacher, teacher.logits_layer)
        if self.logits and any(tap == OUTPUT and layer is not None for tap, layer in sides):
            raise ValueError(
                f"Metric '{self.name}' compares logits, but a HiddenStates model returns hidden states. Pass the model "
                f"itself, or `ChunkedMetric({type(self).__name__}(...))` for a metric that it takes."
            )

    def check(self, student: Spec, teacher: Spec) -> None:
        """Raise an error for activations that the metric cannot compare. Called before training.

        Args:
            student: `Spec` of the student's activation.
            teacher: `Spec` of the teacher's activation.

        Raises:
            ValueError: If a tap holds several tensors, if the metric needs the logits of a softmax and an activation
                ends in a sigmoid, or if the number of classes differs. The message names metric, taps and shapes.
        """
        for side, tap, spec in (("student", self.student, student), ("teacher", self.teacher, teacher)):
            activation = "Softmax" if self.logits else None
            check_activation(spec, f"Metric '{self.name}'", f"{side} '{tap}'", tap, activation)
        if self.logits:
            self._check_classes(student.shape, teacher.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "student": self.student, "teacher": self.teacher, "mask": self.mask}

    def _check_classes(self, student_shape, teacher_shape):
        if len(student_shape) != len(teacher_shape) or student_shape[-1] != teacher_shape[-1]:
            raise ValueError(
                f"Metric '{self.name}' compares logits of the same classes. Received: student '{self.student}' of "
                f"shape {tuple(student_shape)}, teacher '{self.teacher}' of shape {tuple(teacher_shape)}."
            )
