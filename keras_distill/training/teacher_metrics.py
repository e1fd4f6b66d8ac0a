"""Metrics of `compile` that compare the student with its teacher."""

from collections.abc import Iterable, Sequence
from typing import Any

from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.distribution import replicas
from keras_distill.metrics import DistillationMetric
from keras_distill.models.masking import joint_masks, mean_over_positions, zero_padding
from keras_distill.training.positions import fit_positions
from keras_distill.types import Tensor


class TeacherMetrics:
    """Instances of `DistillationMetric` among the metrics of `compile`.

    Args:
        metrics: Metrics that sample weights do not apply to.
        weighted_metrics: Metrics that sample weights apply to.
        taken: Names that the logs already have.

    Raises:
        ValueError: For a name that occurs twice.
    """

    def __init__(self, metrics: Iterable = (), weighted_metrics: Iterable = (), taken: Iterable[str] = ()):
        self.metrics = [*metrics, *weighted_metrics]
        self._weighted = {id(metric) for metric in weighted_metrics}
        names = [metric.name for metric in self.metrics]
        repeated = sorted({name for name in names if names.count(name) > 1 or name in taken})
        if repeated:
            raise ValueError(f"The logs would have the names {repeated} more than once. Pass each metric a `name=`.")

    def update(self, metric: DistillationMetric, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Update one of the metrics with the activations of a step.

        Args:
            metric: The metric.
            student: Activation of the student, shape `[batch, ...]`.
            teacher: Activation of the teacher, shape `[batch, ...]`.
            batch: The `Batch`, with the sample weights of the student's tap.
        """
        given = None if metric.mask is None else batch.inputs[metric.mask]
        student_mask, teacher_mask = joint_masks(student, teacher, given)
        student = zero_padding(ops.cast(student, "float32"), student_mask)
        teacher = zero_padding(ops.cast(teacher, "float32"), teacher_mask)
        weight = self._weight(metric, student, batch.sample_weight)
        if student_mask is not None:
            counted = ops.cast(student_mask, "float32")
            weight = counted if weight is None else multiply_weights(weight, counted)
        if metric.relational:
            student, teacher, weight = replicas.all_gather((student, teacher, weight))
        metric.update_state(student, teacher, sample_weight=weight)

    def _weight(self, metric, student, sample_weight):
        """Return the sample weights of a weighted metric, at the positions of the activation or for each example."""
        if sample_weight is None or id(metric) not in self._weighted:
            return None
        fitted = fit_positions(ops.cast(sample_weight, "float32"), student) if len(sample_weight.shape) > 1 else None
        return mean_over_positions(ops.cast(sample_weight, "float32")) if fitted is None else fitted

    def results(self) -> dict[str, Tensor]:
        """Return `{name: value}`."""
        return {metric.name: metric.result() for metric in self.metrics}


def split_metrics(metrics: Any) -> tuple[Any, list[DistillationMetric]]:
    """Split the metrics of `compile` into those of Keras and a list of `DistillationMetric`.

    Args:
        metrics: Metrics in any form that `keras.Model.compile` takes, or None.
    """
    if isinstance(metrics, DistillationMetric):
        return None, [metrics]
    if isinstance(metrics, dict):
        parts = {key: split_metrics(value) for key, value in metrics.items()}
        return {key: rest for key, (rest, _) in parts.items()}, [m for _, found in parts.values() for m in found]
    if not isinstance(metrics, (list, tuple)):
        return metrics, []
    parts = [split_metrics(value) for value in metrics]
    # An entry that was taken out must not become an output without metrics.
    rest = [part for part, found in parts if not (part is None and found)]
    return rest, [metric for _, found in parts for metric in found]


def check_teacher_metrics(terms: Sequence, metrics: Sequence[DistillationMetric]) -> None:
    """Check that there is a teacher that metrics compare the student with.

    Args:
        terms: The `Term`s of the distiller; none without a teacher.
        metrics: Metrics that need a teacher.

    Raises:
        ValueError: For metrics without a teacher.
    """
    if metrics and not terms:
        names = [metric.name for metric in metrics]
        raise ValueError(
            f"The metrics {names} compare the student with a teacher, but `teacher` is None. Pass a teacher, or "
            "remove them."
        )
