"""What a metric may see of the teacher, in a distiller and by itself."""

import keras
from keras import ops

from keras_distill import replicas
from keras_distill.masking import masks_of, weighted, weights_of_tap, without_padding
from keras_distill.specs import check_tapped
from keras_distill.taps import OUTPUT, pick


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
            check_tapped(spec, f"Metric '{self.name}'", f"{side} '{tap}'", tap, self.logits)
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


class Comparisons:
    """The `DistillationMetric`s among the metrics of `compile`.

    Args:
        metrics: List of those that no sample weight concerns.
        weighted_metrics: List of the others.
        taken: Names that the logs have already.

    Raises:
        ValueError: For a name that comes twice.
    """

    def __init__(self, metrics=(), weighted_metrics=(), taken=()):
        self.metrics = [*metrics, *weighted_metrics]
        self._weighted = {id(metric) for metric in weighted_metrics}
        names = [metric.name for metric in self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1 or name in taken})
        if twice:
            raise ValueError(f"The logs have the names {twice} more than once. Give each metric one, by `name=`.")

    def update(self, batch, student, teacher):
        """Shows them a step.

        Args:
            batch: The `Batch`.
            student: `{tap: activation}`.
            teacher: `{tap: activation}`.
        """
        for metric in self.metrics:
            pair = pick(student, metric.student), pick(teacher, metric.teacher)
            given = None if metric.mask is None else batch.inputs[metric.mask]
            masks = masks_of(*pair, given)
            seen = [without_padding(ops.cast(x, "float32"), mask) for x, mask in zip(pair, masks)]
            weight = weights_of_tap(batch.sample_weight, metric.student) if id(metric) in self._weighted else None
            if masks[0] is not None:
                counted = ops.cast(masks[0], "float32")
                weight = counted if weight is None else weighted(weight, counted)
            if metric.relational:
                *seen, weight = replicas.gathered([*seen, weight])
            metric.update_state(*seen, sample_weight=weight)

    def results(self):
        """`{name: value}`."""
        return {metric.name: metric.result() for metric in self.metrics}


def separated(metrics):
    """What `compile` takes as metrics, without the `DistillationMetric`s, and a list of these.

    Args:
        metrics: As given to `compile`, or None.
    """
    if isinstance(metrics, DistillationMetric):
        return None, [metrics]
    if isinstance(metrics, dict):
        parts = {key: separated(value) for key, value in metrics.items()}
        return {key: rest for key, (rest, _) in parts.items()}, [m for _, found in parts.values() for m in found]
    if not isinstance(metrics, (list, tuple)):
        return metrics, []
    parts = [separated(value) for value in metrics]
    # An entry that is gone must not be taken for an output without metrics.
    rest = [part for part, found in parts if not (part is None and found)]
    return rest, [metric for _, found in parts for metric in found]
