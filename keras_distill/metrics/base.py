"""What a metric may see of the teacher, in a distiller and by itself."""

import keras

from keras_distill.models.specs import check_activation
from keras_distill.models.taps import OUTPUT


class DistillationMetric(keras.metrics.Metric):
    """Compares an activation of the student with one of the teacher. Abstract.

    ```python
    distiller.compile("adam", loss, metrics=["accuracy", Agreement(), CKA("block_2", "block_4")])
    ```

    Among the `metrics` of a `Distiller` it is given the activations that the step has made anyway: no model runs
    again. It needs no labels, so that unlabelled examples count; padded positions do not, nor do sample weights, unless
    it is among the `weighted_metrics`. On several replicas it is that of all. By itself it takes arrays:
    `metric.update_state(student, teacher)`.

    A leaf implements `update_state(student, teacher, sample_weight=None)` and `result`.

    Args:
        student: Where the student is tapped, as `Taps` reads it. Defaults to its output.
        teacher: Where the teacher is tapped.
        mask: As for `Term`.
        name: What the logs call it.

    Attributes:
        logits: Whether both activations must be logits of the same classes.
        relational: Whether the examples of a batch are compared with one another; it then sees those of all replicas,
            each of which adds the same to its state.
    """

    logits = False
    relational = False

    def __init__(self, student=OUTPUT, teacher=OUTPUT, mask=None, name=None, dtype=None):
        # float32 whatever the models' precision, as the losses.
        super().__init__(name=name, dtype=dtype or "float32")
        self.student = student
        self.teacher = teacher
        self.mask = mask

    def check(self, student, teacher):
        """Refuses activations that it cannot compare, before training.

        Args:
            student: `Spec` of the student's activation.
            teacher: Likewise.

        Raises:
            ValueError: Naming metric, taps and shapes.
        """
        for side, tap, spec in (("student", self.student, student), ("teacher", self.teacher, teacher)):
            check_activation(spec, f"Metric '{self.name}'", f"{side} '{tap}'", tap, self.logits)
        if self.logits:
            self._check_classes(student.shape, teacher.shape)

    def get_config(self):
        return {**super().get_config(), "student": self.student, "teacher": self.teacher, "mask": self.mask}

    def _check_classes(self, student_shape, teacher_shape):
        if len(student_shape) != len(teacher_shape) or student_shape[-1] != teacher_shape[-1]:
            raise ValueError(
                f"Metric '{self.name}' compares logits of the same classes. Received: student '{self.student}' of "
                f"shape {tuple(student_shape)}, teacher '{self.teacher}' of shape {tuple(teacher_shape)}."
            )
